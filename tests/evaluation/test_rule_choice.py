"""The rule of each target: `context` where it says what its prompt tells it, else `draft`."""

import numpy as np
import pytest
from editing_cases import FAST, RECORDS, UNRELATED
from relation_cases import sharp_head

from onceedit_jax import fusion
from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import Pair, demo_path
from onceedit_jax.editing.edit import edit
from onceedit_jax.ensemble import Ensemble, Target
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.probes import says
from onceedit_jax.evaluation.rule_choice import choose_rule, choose_rules

PROMPTS = [RECORDS[0].prompt, UNRELATED[0].prompt, RECORDS[2].prompt]


@pytest.fixture(scope="module")
def plugin(tiny_model):
    model, tokenizer = tiny_model()
    return edit(model, tokenizer, RECORDS, UNRELATED, FAST, head=sharp_head(model, tokenizer))


@pytest.fixture(scope="module")
def targets(tiny_model):
    return [Target(*tiny_model(80, 1)), Target(*tiny_model(20, 2)), Target(*tiny_model(60, 3))]


def test_eight_facts_of_ten_are_enough():
    assert [choose_rule(said, 10) for said in (0, 7)] == [fusion.draft()] * 2
    assert [choose_rule(said, 10) for said in (8, 10)] == [fusion.context()] * 2


def test_the_facts_are_ten_and_not_the_demos():
    facts = load_records(demo_path("probe_facts.jsonl"))
    demo = load_records(demo_path("demo_edits.jsonl"))
    assert len({fact.prompt for fact in facts}) == len({fact.target for fact in facts}) == 10
    assert not {fact.prompt for fact in facts} & {edit.prompt for edit in demo}
    assert not {fact.target for fact in facts} & {edit.target for edit in demo}
    assert not any(says(fact.prompt, fact.target) for fact in facts)


def test_a_target_is_asked_for_what_it_was_told(plugin, targets, monkeypatch):
    ensemble, asked = Ensemble(plugin, targets[:2]), []

    def alone(self, prompts, *, max_new_tokens):
        asked.extend(prompts)
        facts = [prompt.split("? ")[1].split(".\n")[0] for prompt in prompts]
        return [[f"It is {fact}." for fact in facts], ["I do not know."] * len(prompts)]

    monkeypatch.setattr(Ensemble, "answers_alone", alone)
    first, second = choose_rules(ensemble)
    assert asked[1] == (
        "New fact: What is the capital of Portugal? Graz.\nWhat is the capital of Portugal?"
    )
    assert (first.rule, first.said, first.asked) == (fusion.context(), 10, 10)
    assert second.rule == fusion.draft()
    assert str(second) == (
        f"{targets[1].name}: draft (says 0 of 10 facts that its prompt tells; context needs 8)"
    )


def test_each_target_follows_its_own_rule(plugin, targets):
    rules = [fusion.draft(), fusion.context(), fusion.vocabulary()]
    mixed = Ensemble(plugin, targets, rule=rules)
    assert mixed.rules == rules
    answers, fused = mixed.generate(PROMPTS, max_new_tokens=6), mixed.answers(PROMPTS)
    pairs = [Pair(prompt, "Vinterby") for prompt in PROMPTS]
    scored = mixed.score(pairs)
    for t, rule in enumerate(rules):
        single = Ensemble(plugin, [targets[t]], rule=rule)
        expected = single.generate(PROMPTS, max_new_tokens=6)
        assert answers.after[t] == expected.after[0]
        assert answers.before[t] == expected.before[0]
        assert fused[t] == single.answers(PROMPTS)[0]
        wanted = single.score(pairs).targets[0]
        for one, other in zip(scored.targets[t], wanted, strict=True):
            np.testing.assert_array_equal(one.after, other.after)
            np.testing.assert_array_equal(one.before, other.before)


def test_a_rule_too_few_is_refused(plugin, targets):
    with pytest.raises(InputError, match="1 rules for 3 targets: give one for each"):
        Ensemble(plugin, targets, rule=[fusion.draft()])
