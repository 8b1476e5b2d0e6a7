"""Plug-ins that were edited apart and are added up."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax import gates
from onceedit_jax.data.records import EditRecord, UnrelatedRow
from onceedit_jax.editing.augmentation import training_texts
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.finalize import finalize_artifact
from onceedit_jax.editing.merging import merge
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError

RECORDS = [
    EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    EditRecord("Which river runs through Osthavn?", "the Ask", subject="Osthavn"),
]
UNRELATED = [UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
SETTINGS = EditSettings(method="full", learning_rate=1e-2, epochs=3, batch_size=4, held_back=1)


@pytest.fixture(scope="module")
def apart(tiny_model):
    """A base and two plug-ins, each with an edit of its own."""
    model, tokenizer = tiny_model()
    return model, tokenizer, [edit(model, tokenizer, [r], UNRELATED, SETTINGS) for r in RECORDS]


def test_one_plugin_merged_is_itself(apart):
    model, _, (plugin, _) = apart
    merged = merge(model, [plugin])
    for leaf, own in zip(
        jax.tree.leaves([merged.params, merged.gate]),
        jax.tree.leaves([plugin.params, plugin.gate]),
        strict=True,
    ):
        assert leaf.dtype == own.dtype
        np.testing.assert_allclose(leaf, own, atol=1e-6)


def test_changes_add_up_and_are_scaled(apart):
    model, _, plugins = apart
    merged = merge(model, plugins, scale=0.5)
    start = np.asarray(model.params["embed"]["tokens"], np.float64)
    changes = sum(np.asarray(p.params["embed"]["tokens"], np.float64) - start for p in plugins)
    assert np.abs(changes).max() > 1e-3
    np.testing.assert_allclose(merged.params["embed"]["tokens"], start + 0.5 * changes, atol=1e-6)
    gates = sum(np.asarray(p.gate["kernel"], np.float64) for p in plugins)
    np.testing.assert_allclose(merged.gate["kernel"], 0.5 * gates, atol=1e-7)


def test_merging_in_turn_is_merging_at_once(apart):
    model, _, (first, second) = apart
    once = merge(model, [first, second])
    halfway = merge(model, [first])
    turn = merge(model, [replace(first, params=halfway.params, gate=halfway.gate), second])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), once.params, turn.params)


def test_a_merged_plugin_is_sealed_with_all_its_edits(apart):
    model, tokenizer, plugins = apart
    texts = training_texts(model, tokenizer, RECORDS, UNRELATED, SETTINGS)
    merged = merge(model, plugins)
    sealed = finalize_artifact(
        model, tokenizer, merged, RECORDS, texts, SETTINGS, spent=9.0, seen=["mark"]
    )
    assert [entry.target for entry in sealed.info.edits] == ["Vinterby", "the Ask"]
    assert "mark" in sealed.info.trained_texts
    assert sealed.info.metrics.epochs == 0
    assert 9 < sealed.editing_seconds < 99
    alphas = sealed.alphas(
        [RECORDS[0].prompt, "How far is the harbour from bridge 3?"], gates.memory()
    )
    assert alphas.tolist() == [1.0, 0.0]


def test_nothing_or_another_base_is_refused(apart, tiny_model):
    model, _, plugins = apart
    with pytest.raises(InputError, match="no plug-ins"):
        merge(model, [])
    with pytest.raises(InputError, match="expected tiny-40-1"):
        merge(tiny_model(seed=1)[0], plugins)
    assert jnp.isfinite(merge(model, plugins).gate["kernel"]).all()
