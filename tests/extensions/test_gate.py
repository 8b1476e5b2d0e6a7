"""A gate written outside the package, used by an ensemble without a change in it."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import onceedit_jax as oe
from onceedit_jax import gates

RECORDS = [
    oe.EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    oe.EditRecord("Who wrote The Glass Orchard?", "Ada Quill", subject="The Glass Orchard"),
]
UNRELATED = [oe.UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
SETTINGS = oe.EditSettings(
    learning_rate=1e-2, epochs=60, batch_size=4, unrelated_ratio=3, swapped_ratio=0
)


def fit(features, labels):
    """The mean state of the edits' prompts."""
    return {"edits": jnp.asarray(features.hidden[labels == gates.EDIT])}


def score(state, features):
    """How near a prompt's state is to the nearest edit's: its cosine, cut at 0."""

    def unit(rows):
        return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)

    cosines = unit(features.hidden) @ unit(state["edits"]).T
    return jnp.maximum(jnp.max(cosines, axis=-1), 0.0) ** 8


NEAREST = oe.Gate("nearest edit", fit, score, reads=frozenset({"hidden"}))


@pytest.fixture(scope="module")
def edited(tiny_model):
    return oe.edit(*tiny_model(40, 0), RECORDS, UNRELATED, SETTINGS)


@pytest.fixture(scope="module")
def target(tiny_model):
    return oe.Target(*tiny_model(40, 2))


def test_a_gate_from_outside_is_fitted_on_the_artifacts_edits(edited, target):
    ensemble = oe.Ensemble(edited, [target], gate=NEAREST)
    assert ensemble.gate.name == "nearest edit"
    assert 0.1 <= ensemble.threshold <= 0.9
    alphas = ensemble.alphas([record.prompt for record in RECORDS])
    np.testing.assert_allclose(alphas, 1, atol=1e-4)
    answers = ensemble.generate([RECORDS[0].prompt], max_new_tokens=12)
    assert answers.after[0] == ["Vinterby"]


def test_a_gate_may_be_fitted_elsewhere(edited, target):
    fitted = dataclasses.replace(edited.fitted(NEAREST), threshold=0.99)
    ensemble = oe.Ensemble(edited, [target], gate=fitted)
    assert ensemble.threshold == 0.99
    prompts = [RECORDS[0].prompt, UNRELATED[0].prompt]
    alphas = ensemble.alphas(prompts)
    assert alphas[0] > 0.99 > alphas[1]
    answers = ensemble.generate(prompts, max_new_tokens=12)
    assert answers.after[0][0] == "Vinterby"
    assert answers.after[0][1] == answers.before[0][1]


def test_a_gate_of_words_alone_never_runs_the_plugin(edited, monkeypatch):
    from onceedit_jax.editing import gate_features

    def never(*args):
        raise AssertionError("the plug-in ran")

    monkeypatch.setattr(gate_features, "states_after", never)
    gate = oe.Gate(
        "long prompts",
        lambda features, labels: {},
        lambda state, features: jnp.mean(features.words >= 0, axis=-1),
    )
    assert edited.alphas(["one two", "three"], gate).tolist() == [2 / 32, 1 / 32]
