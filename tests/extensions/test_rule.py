"""A fusion rule written outside the package, from a function to a score."""

import jax.numpy as jnp
import numpy as np
import pytest

import onceedit_jax as oe

RECORDS = [
    oe.EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    oe.EditRecord("Who wrote The Glass Orchard?", "Ada Quill", subject="The Glass Orchard"),
]
UNRELATED = [oe.UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
SETTINGS = oe.EditSettings(
    learning_rate=1e-2, epochs=60, batch_size=4, unrelated_ratio=3, swapped_ratio=0
)


@pytest.fixture(scope="module")
def edited(tiny_model):
    return oe.edit(*tiny_model(40, 0), RECORDS, UNRELATED, SETTINGS)


@pytest.fixture(scope="module")
def target(tiny_model):
    return oe.Target(*tiny_model(40, 2))


def prepare(plugin, target):
    """The target token of each plug-in token, -1 where it knows none."""
    ids = oe.Bridge(plugin.tokenizer, target.tokenizer).first_tokens()
    return jnp.pad(ids, (0, plugin.config.vocab_size - len(ids)), constant_values=-1)


def step(ids, inputs):
    """The plug-in's most likely token, where the target knows it."""
    token = ids[jnp.argmax(inputs.plugin_logits, axis=-1)]
    own = jnp.argmax(inputs.target_logits, axis=-1)
    return oe.FusedStep(jnp.where(token >= 0, token, own))


PLUGIN_FIRST = oe.FusionRule("plug-in first", prepare, step)


def test_a_rule_from_outside_scores_and_generates(edited, target):
    ensemble = oe.Ensemble(edited, [target], rule=PLUGIN_FIRST)
    (result,) = oe.evaluate(ensemble, RECORDS, mode="both").results[:1]
    assert (result["fusion"], result["search"]) == ("plug-in first", "none")
    assert result["before"]["rel"] < 0.5 < result["after"]["rel"] == 1
    answers = ensemble.generate([RECORDS[0].prompt, UNRELATED[0].prompt], max_new_tokens=12)
    assert answers.after[0][0] == "Vinterby"
    assert answers.after[0][1] == answers.before[0][1]


def test_a_rule_from_outside_may_read_drafts(edited, target):
    def say_the_draft(state, inputs):
        own = jnp.argmax(inputs.target_logits, axis=-1)
        return oe.FusedStep(jnp.where(inputs.drafted >= 0, inputs.drafted, own))

    rule = oe.FusionRule("draft always", lambda plugin, target: (), say_the_draft, reads="draft")
    ensemble = oe.Ensemble(edited, [target], rule=rule)
    scored = ensemble.score([oe.Pair(r.prompt, r.target) for r in RECORDS])
    for text in scored.targets[0]:
        np.testing.assert_array_equal(text.after, text.gold)


def test_a_state_prepared_elsewhere_is_taken(edited, target):
    def never(plugin, target):
        raise AssertionError("the state was given")

    rule = oe.FusionRule("plug-in first", never, step)
    size = len(edited.tokenizer.vocabulary)
    ensemble = oe.Ensemble(edited, [target], rule=rule, states=[jnp.arange(size)])
    assert ensemble.answers([RECORDS[0].prompt], max_new_tokens=12) == [["Vinterby"]]
