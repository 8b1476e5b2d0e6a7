"""The rule `context`: the target reads the edit that the gate names, and nothing else differs."""

import dataclasses

import numpy as np
import pytest
from editing_cases import RECORDS, UNRELATED

from onceedit_jax import fusion, gates
from onceedit_jax.data.records import Pair
from onceedit_jax.ensemble import Ensemble
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.draft_rule import new_fact
from onceedit_jax.text.prompts import told

PROMPTS = [RECORDS[0].prompt, UNRELATED[0].prompt, RECORDS[2].prompt]


def as_told(prompt):
    record = next((r for r in RECORDS if r.prompt == prompt), None)
    return told(prompt, new_fact(record.prompt, record.target)) if record else prompt


def test_the_target_reads_the_fact_and_answers_by_itself(plugin, targets):
    ensemble = Ensemble(plugin, targets, rule=fusion.context())
    answers = ensemble.generate(PROMPTS, max_new_tokens=6)
    assert answers.edits.tolist() == [0, -1, 2]
    assert answers.before == ensemble.answers_alone(PROMPTS, max_new_tokens=6)
    expected = ensemble.answers_alone([as_told(p) for p in PROMPTS], max_new_tokens=6)
    assert answers.after == expected == ensemble.answers(PROMPTS, max_new_tokens=6)
    assert [texts[1] for texts in answers.after] == [texts[1] for texts in answers.before]


def test_scores_are_those_of_the_target_after_the_fact(plugin, targets):
    pairs = [Pair(prompt, "Vinterby") for prompt in PROMPTS]
    scored = Ensemble(plugin, targets, rule=fusion.context()).score(pairs)
    plain = Ensemble(plugin, targets, gate=gates.fixed(0)).score(pairs)
    read = [Pair(as_told(pair.prompt), pair.target) for pair in pairs]
    after = Ensemble(plugin, targets, gate=gates.fixed(0)).score(read)
    for found, before, expected in zip(scored.targets, plain.targets, after.targets, strict=True):
        for one, old, new in zip(found, before, expected, strict=True):
            np.testing.assert_array_equal(one.gold, old.gold)
            np.testing.assert_array_equal(one.before, old.before)
            np.testing.assert_array_equal(one.after, new.after)


def test_a_draft_is_checked_by_the_target_that_has_read_the_fact(plugin, targets):
    rule = fusion.context(draft=True)
    assert rule == fusion.context(draft=True) and rule.reads == "draft"
    answers = Ensemble(plugin, targets, rule=rule).generate(PROMPTS, max_new_tokens=12)
    drafted = Ensemble(plugin, targets).generate(PROMPTS, max_new_tokens=12)
    assert [texts[1] for texts in answers.after] == [texts[1] for texts in drafted.after]
    assert all(texts[0].startswith(RECORDS[0].target) for texts in answers.after)


def test_a_gate_that_names_no_edit_is_refused(plugin, targets):
    with pytest.raises(InputError, match="use the gate fact"):
        Ensemble(plugin, targets, rule=fusion.context(), gate=gates.both())


def test_a_rule_of_ones_own_tells_in_its_own_words(plugin, targets):
    rule = dataclasses.replace(fusion.context(), name="mine", tells=lambda q, a: f"{q} {a}!")
    ensemble = Ensemble(plugin, targets, rule=rule)
    (answers, *_) = ensemble.answers(PROMPTS[:1], max_new_tokens=6)
    prompt = f"{RECORDS[0].prompt} {RECORDS[0].target}!\n{RECORDS[0].prompt}"
    assert answers == ensemble.answers_alone([prompt], max_new_tokens=6)[0]


def test_in_a_conversation_the_fact_stands_before_the_last_words():
    turns = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Who?"}]
    assert told(turns, "Fact.") == [turns[0], {"role": "user", "content": "Fact.\nWho?"}]
    assert told("Who?", "Fact.") == "Fact.\nWho?"
