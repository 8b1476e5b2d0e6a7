"""Verdicts and drafts are kept while several calls ask about the same prompts, and not longer."""

import numpy as np
import pytest
from editing_cases import RECORDS, UNRELATED

from onceedit_jax.data.records import Pair
from onceedit_jax.editing.gate_features import PromptReader
from onceedit_jax.ensemble import Ensemble

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
