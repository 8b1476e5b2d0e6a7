"""What is said of prompts is kept while several calls ask about the same, and not longer."""

import numpy as np
import pytest
from editing_cases import RECORDS, UNRELATED

from onceedit_jax.data.records import Pair
from onceedit_jax.decoding import answers, checked_drafts
from onceedit_jax.editing.gate_features import PromptReader
from onceedit_jax.ensemble import Ensemble, scoring
from onceedit_jax.ensemble.scoring import expect

PROMPTS = [RECORDS[0].prompt, UNRELATED[0].prompt, RECORDS[2].prompt]
PAIRS = [Pair(prompt, "Vinterby") for prompt in PROMPTS]


@pytest.fixture
def asked(monkeypatch):
    """The texts that the gate was asked of, call by call."""
    calls, plain = [], PromptReader.verdicts
    monkeypatch.setattr(
        PromptReader,
        "verdicts",
        lambda self, gate, state, texts: (
            calls.append(list(texts)) or plain(self, gate, state, texts)
        ),
    )
    return calls


def test_within_a_context_every_text_is_judged_once(plugin, targets, asked):
    ensemble = Ensemble(plugin, targets, chat=False)
    alone = ensemble.score(PAIRS), ensemble.generate(PROMPTS, max_new_tokens=6)
    asked.clear()
    recall = ensemble.prepared_plugin.recall
    with recall.keeping():
        scored = ensemble.score(PAIRS)
        answers = ensemble.generate([*PROMPTS, PROMPTS[0], "Who?"], max_new_tokens=6)
    assert asked == [PROMPTS, ["Who?"]]
    np.testing.assert_array_equal(scored.alphas, alone[0].alphas)
    np.testing.assert_array_equal(answers.alphas[:3], alone[1].alphas)
    np.testing.assert_array_equal(answers.edits[[0, 1, 2, 3]], alone[1].edits[[0, 1, 2, 0]])
    assert [after[:3] for after in answers.after] == alone[1].after
    ensemble.alphas(PROMPTS)
    assert asked[2:] == [PROMPTS]


def test_drafts_are_kept_from_call_to_call(plugin, targets):
    ensemble = Ensemble(plugin, targets, chat=False)
    drafter, recall = ensemble.prepared_plugin.drafter, ensemble.prepared_plugin.recall
    with recall.keeping(), recall.keeping():
        ensemble.score(PAIRS)
        known = dict(drafter._drafts)
        ensemble.generate(PROMPTS, max_new_tokens=6)
        assert known and all(drafter._drafts[start] is draft for start, draft in known.items())
    assert not drafter._drafts


def test_a_target_reads_a_prompt_once_for_its_answer_the_true_one_and_a_draft(
    plugin, targets, monkeypatch
):
    ensemble = Ensemble(plugin, targets, chat=False)
    alone = ensemble.score(PAIRS), ensemble.generate(PROMPTS, max_new_tokens=20)
    monkeypatch.setattr(answers, "PROMPTS", 1)  # so that the prompts share a batch
    read, plain = [], scoring.states_after
    monkeypatch.setattr(
        scoring,
        "states_after",
        lambda params, config, texts, counts: (
            read.append(len(texts)) or plain(params, config, texts, counts)
        ),
    )
    with ensemble.prepared_plugin.recall.keeping():
        expect(ensemble.prepared_plugin, ensemble.prepared, PAIRS)
        answered = ensemble.generate(PROMPTS, max_new_tokens=20)
        scored = ensemble.score(PAIRS)
    assert not any(read)
    assert (answered.before, answered.after) == (alone[1].before, alone[1].after)
    for old, new in zip(alone[0].targets, scored.targets, strict=True):
        for one, other in zip(old, new, strict=True):
            np.testing.assert_array_equal(one.before, other.before)
            np.testing.assert_array_equal(one.after, other.after)
    ensemble.score(PAIRS)
    assert any(read)


def test_a_draft_that_was_read_along_is_not_read_again(plugin, targets, monkeypatch):
    ensemble = Ensemble(plugin, targets, chat=False)
    alone = ensemble.generate(PROMPTS, max_new_tokens=6)
    monkeypatch.setattr(answers, "PROMPTS", 1)
    passes, plain = [], checked_drafts.CachedRows.advance
    monkeypatch.setattr(
        checked_drafts.CachedRows,
        "advance",
        lambda rows, texts, counts: passes.append(len(texts)) or plain(rows, texts, counts),
    )
    found = ensemble.generate(PROMPTS, max_new_tokens=6)
    assert (found.before, found.after) == (alone.before, alone.after)
    with_reading = len(passes)
    passes.clear()
    assert ensemble.answers(PROMPTS, max_new_tokens=6) == alone.after
    assert with_reading < len(passes)
