"""A question that asks for more than the fact is answered by the target, which reads the fact."""

import dataclasses

import numpy as np
import pytest
from editing_cases import RECORDS

from onceedit_jax import fusion, gates
from onceedit_jax.data.records import Pair
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.ensemble.beyond import asks_beyond
from onceedit_jax.ensemble.generation import generate
from onceedit_jax.ensemble.likelihood import fused_likelihoods, own_likelihoods
from onceedit_jax.ensemble.preparation import PreparedPlugin
from onceedit_jax.ensemble.scoring import Text, score
from onceedit_jax.fusion.draft_rule import new_fact
from onceedit_jax.gates.fitting import Verdicts
from onceedit_jax.text.prompts import told

YES_OR_NO = "Is Vinterby the capital of Norland?"
OF_THE_ANSWER = "How many people live in the capital of Norland?"
OTHER = "How far is the harbour?"
PROMPTS = [RECORDS[0].prompt, YES_OR_NO, OF_THE_ANSWER, OTHER]
BEYOND = [False, True, True, False]
TASKS = [f"Translate this into French: {PROMPTS[0]}", f"{PROMPTS[0]} Write a poem about that."]
WHY = "Why is Norland's capital not at sea?"
REMARKS = [f"{PROMPTS[0]} I need it by noon.", f"{PROMPTS[0]} Write three sentences."]
FACT = new_fact(RECORDS[0].prompt, RECORDS[0].target)


@pytest.fixture(autouse=True)
def gate(monkeypatch):
    """A gate that takes all these questions for the first edit."""
    opens = {*PROMPTS[:3], *TASKS, *REMARKS, WHY, "What is the capital of Norland?"}

    def verdicts(plugin, prompts):
        edits = np.array([0 if prompt in opens else -1 for prompt in prompts], np.int32)
        return Verdicts((edits >= 0).astype(np.float32), edits)

    monkeypatch.setattr(PreparedPlugin, "verdicts", verdicts)


@pytest.mark.parametrize("rule", [fusion.draft(), fusion.context(draft=True)])
def test_it_is_not_drafted_and_the_target_is_told(plugin, targets, rule):
    ensemble = Ensemble(plugin, targets, rule=rule, chat=False)
    answers = ensemble.generate(PROMPTS, max_new_tokens=12)
    assert answers.beyond.tolist() == BEYOND and answers.edits.tolist() == [0, 0, 0, -1]
    read = [told(prompt, FACT) for prompt in (YES_OR_NO, OF_THE_ANSWER)]
    expected = ensemble.answers_alone(read, max_new_tokens=12)
    assert [texts[1:3] for texts in answers.after] == expected
    assert [texts[3] for texts in answers.after] == [texts[3] for texts in answers.before]
    assert all(texts[0].startswith(RECORDS[0].target) for texts in answers.after)
    assert ensemble.answers(PROMPTS, max_new_tokens=12) == answers.after


def test_a_task_asks_for_more_and_a_remark_does_not(plugin, targets):
    answers = Ensemble(plugin, targets, chat=False).generate([*TASKS, *REMARKS], max_new_tokens=3)
    assert answers.edits.tolist() == [0, 0, 0, 0]
    assert answers.beyond.tolist() == [True, True, False, False]


def test_a_question_for_reasons_is_answered_by_the_target(plugin, targets):
    answers = Ensemble(plugin, targets, chat=False).generate([WHY], max_new_tokens=3)
    assert answers.edits.tolist() == [0] and answers.beyond.tolist() == [True]


def test_it_is_scored_as_it_is_answered(plugin, targets):
    pairs = [Pair(prompt, "Vinterby") for prompt in PROMPTS]
    scored = Ensemble(plugin, targets, chat=False).score(pairs)
    plain = Ensemble(plugin, targets, gate=gates.fixed(0), chat=False)
    own = plain.score(pairs)
    read = plain.score([Pair(told(YES_OR_NO, FACT), "Vinterby")])
    for found, old, new in zip(scored.targets, own.targets, read.targets, strict=True):
        np.testing.assert_array_equal(found[1].after, new[0].after)
        np.testing.assert_array_equal(found[0].after, found[0].gold)
        for one, before in zip(found, old, strict=True):
            np.testing.assert_array_equal(one.before, before.before)


def test_a_rule_that_tells_nothing_and_a_gate_that_knows_no_relation_draft(plugin, targets):
    rule = dataclasses.replace(fusion.draft(), tells=None)
    for ensemble in (
        Ensemble(plugin, targets, rule=rule, chat=False),
        Ensemble(plugin, targets, gate=gates.both(), chat=False),
    ):
        prepared = ensemble.prepared_plugin
        with prepared.recall.keeping():
            assert not ensemble.generate(PROMPTS, max_new_tokens=2).beyond.any()
            starts = {start.text.decode() for start in prepared.drafter._drafts}
        assert {YES_OR_NO, OF_THE_ANSWER} <= starts


def test_with_given_alphas_it_is_drafted(plugin, targets):
    ensemble = Ensemble(plugin, targets, rule=[fusion.draft(), fusion.context()], chat=False)
    pair, ones = (ensemble.prepared_plugin, ensemble.prepared), np.ones(4, np.float32)
    answers = generate(*pair, PROMPTS, max_new_tokens=12, alphas=ones)
    assert not answers.beyond.any()
    with pair[0].recall.keeping():
        score(*pair, [Pair(prompt, "Vinterby") for prompt in PROMPTS], alphas=ones)
        assert YES_OR_NO in {start.text.decode() for start in pair[0].drafter._drafts}


@pytest.mark.parametrize("other", [fusion.vocabulary(), fusion.context()])
def test_each_target_has_its_own_rule(plugin, targets, other):
    ensemble = Ensemble(plugin, targets, rule=[fusion.draft(trust=True), other], chat=False)
    answers = ensemble.generate(PROMPTS, max_new_tokens=12)
    alone = [
        Ensemble(plugin, [target], rule=rule, chat=False).generate(PROMPTS, max_new_tokens=12)
        for target, rule in zip(targets, (fusion.draft(), other), strict=True)
    ]
    assert answers.after[0][1:] == alone[0].after[0][1:]
    assert answers.after[1] == alone[1].after[0]
    assert alone[1].beyond.tolist() == [False] * 4 and answers.beyond.tolist() == BEYOND


def test_its_likelihood_is_that_of_the_target_that_has_read_the_fact(plugin, targets):
    ensemble = Ensemble(plugin, targets[:1], chat=False)
    (prepared,) = ensemble.prepared
    texts = [Text.of(Pair(prompt, "Vinterby"), prepared) for prompt in PROMPTS]
    found = fused_likelihoods(ensemble.prepared_plugin, prepared, PROMPTS, texts)
    model = prepared.target.model
    read = [Text.of(Pair(told(YES_OR_NO, FACT), "Vinterby"), prepared)]
    (expected,) = own_likelihoods(model.params, model.config, read)
    assert found[1].log_probability == pytest.approx(expected.log_probability, abs=1e-4)
    assert found[3] == own_likelihoods(model.params, model.config, texts)[3]
    assert found[0].log_probability > found[1].log_probability


def test_an_edit_that_is_itself_a_question_for_yes_or_no_is_drafted(plugin, targets):
    prepared = Ensemble(plugin, targets).prepared_plugin
    info = prepared.plugin.info
    first = dataclasses.replace(info.edits[0], prompt="Is Norland a kingdom?")
    edited = dataclasses.replace(
        prepared.plugin, info=dataclasses.replace(info, edits=(first, *info.edits[1:]))
    )
    other = dataclasses.replace(prepared, plugin=edited)
    edits = np.array([0, 0, 0, -1], np.int32)
    assert asks_beyond(prepared, [fusion.draft()], PROMPTS, edits).tolist() == BEYOND
    assert asks_beyond(other, [fusion.draft()], PROMPTS, edits).tolist() == [
        False,
        False,
        True,
        False,
    ]
