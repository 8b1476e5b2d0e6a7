"""Gates as values: what each reads, how it is fitted, and what a gate of one's own gives."""

import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax import gates
from onceedit_jax.errors import InputError
from onceedit_jax.gates import EDIT, UNLABELLED, UNRELATED, Gate, GateFeatures
from onceedit_jax.gates.fitting import fit_gate, score_prompts
from onceedit_jax.gates.registry import gate_by_name
from onceedit_jax.gates.types import NOTHING

# Words 10 and 11 name two edits; the third edit is one that the gate is not told of.
WORDS = np.array([[1, 10], [1, 11], [1, 12], [2, 3], [2, 4], [2, 5], [2, 6]], np.int32)
KEYS = np.full((7, 1), NOTHING, np.int32)
KEYS[:3, 0] = [10, 11, 12]
LABELS = np.array([EDIT, EDIT, UNLABELLED, *[UNRELATED] * 4], np.int32)
HELD_OUT = np.array([False] * 5 + [True] * 2)
LOGITS = np.array([3, 2, 0, -1, -1, -2, -3], np.float32)
FEATURES = GateFeatures(WORDS, weight_logit=LOGITS, keys=KEYS, held_out=HELD_OUT)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_each_gate_reads_what_its_name_says():
    fitted = {
        gate.name: fit_gate(gate, FEATURES, LABELS)
        for gate in (gates.token(), gates.memory(), gates.both(), gates.fixed(0.3))
    }
    alphas = {name: score_prompts(g.gate, g.state, FEATURES).alphas for name, g in fitted.items()}
    near = np.array([True] * 3 + [False] * 4)
    evidence = float(fitted["both"].state["evidence"])
    assert evidence > 0
    np.testing.assert_allclose(alphas["token"], sigmoid(LOGITS), rtol=1e-6)
    np.testing.assert_allclose(alphas["memory"], near)
    np.testing.assert_allclose(
        alphas["both"], np.where(near, sigmoid(LOGITS + evidence), 0), rtol=1e-6
    )
    np.testing.assert_allclose(alphas["fixed"], 0.3)


def test_an_unlabelled_edit_is_remembered_and_calibrates_nothing():
    told = fit_gate(gates.both(), FEATURES, np.where(LABELS == UNLABELLED, EDIT, LABELS))
    untold = fit_gate(gates.both(), FEATURES, LABELS)
    np.testing.assert_array_equal(told.state["words"], untold.state["words"])
    assert told.state["evidence"] > untold.state["evidence"]  # one edit more is in reach


def test_only_prompts_that_may_open_the_gate_are_read():
    fitted = fit_gate(gates.both(), FEATURES, LABELS)
    asked = []

    def read(places):
        asked.extend(places.tolist())
        return GateFeatures(WORDS[places], weight_logit=LOGITS[places])

    score_prompts(fitted.gate, fitted.state, FEATURES, read)
    assert asked == [0, 1, 2]
    asked.clear()
    score_prompts(gates.token(), {}, FEATURES, read)
    assert asked == list(range(7))
    asked.clear()
    score_prompts(gates.memory(), fitted.state, FEATURES, read)
    assert asked == []


def test_a_fixed_gate_has_no_threshold_and_says_nothing_of_trust():
    fitted = fit_gate(gates.fixed(0.25), FEATURES, LABELS)
    assert (fitted.threshold, fitted.trust_threshold) == (0, None)
    with pytest.raises(InputError, match="from 0 to 1"):
        gates.fixed(1.5)


def test_equal_gates_are_one_value_and_so_compile_once():
    assert gates.both() is gates.both() is gate_by_name("both")
    assert gates.fixed(0.5) is gates.fixed() is gate_by_name("fixed")
    assert gates.fixed(0.25) is gate_by_name("fixed", fixed_alpha=0.25)


@pytest.mark.parametrize(
    ("name", "options", "remedy"),
    [
        ("neither", {}, "expected one of fact, both, token, memory, fixed"),
        ("both", {"fixed_alpha": 0.5}, "choose the gate fixed"),
    ],
)
def test_what_is_no_gate_is_refused(name, options, remedy):
    with pytest.raises(InputError, match=remedy):
        gate_by_name(name, **options)


def test_an_installed_package_adds_names(monkeypatch):
    mine = Gate("mine", lambda features, labels: {}, lambda state, features: features.words[:, 0])

    class Point:
        name = "mine"

        def load(self):
            return mine

    def points(group, name=None):
        return [Point()] if group == "onceedit_jax.gates" and name in (None, "mine") else []

    monkeypatch.setattr("onceedit_jax.gates.registry.entry_points", points)
    assert gate_by_name("mine") is mine


def test_a_gate_of_ones_own_is_fitted_and_calibrated_like_the_others():
    def fit(features, labels):
        return {"mean": jnp.asarray(features.hidden[labels == EDIT].mean(axis=0))}

    def score(state, features):
        return jnp.exp(-jnp.sum((features.hidden - state["mean"]) ** 2, axis=-1))

    gate = Gate("near the mean", fit, score, reads=frozenset({"hidden"}))
    hidden = np.concatenate([np.ones((3, 2)), np.full((4, 2), 3.0)]).astype(np.float32)
    fitted = fit_gate(gate, FEATURES._replace(hidden=hidden), LABELS)
    alphas = score_prompts(gate, fitted.state, FEATURES._replace(hidden=hidden)).alphas
    np.testing.assert_allclose(alphas, [1, 1, 1] + [np.exp(-8)] * 4, rtol=1e-5)
    assert alphas[3] < fitted.threshold < 1
