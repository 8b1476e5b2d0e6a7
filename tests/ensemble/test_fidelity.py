"""The fidelity of a pair's tables, against the whole matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.ensemble import Target, fidelity
from onceedit_jax.ensemble.side import ModelSide
from onceedit_jax.fusion import relative
from onceedit_jax.fusion.relative_rule import pair_anchors
from onceedit_jax.models.decoder import unembed
from onceedit_jax.relative.transfer import transfer_matrix


@pytest.fixture
def sides(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))
    monkeypatch.setattr(fidelity, "DISTRIBUTIONS", 12)
    return [
        ModelSide.of_model(Target(*tiny_model(merges, seed))) for merges, seed in ((40, 0), (80, 1))
    ]


def test_variation_is_the_distance_from_p_r_with_the_whole_matrix(sides):
    state = relative(allow_lossy=True).prepare(*sides)
    health = tuple(side.health for side in sides)
    report = fidelity.fidelity(*sides, state, health)
    texts = fidelity.beginnings(12)
    assert report.distributions == len(texts) == 12
    shared = pair_anchors(sides[0].tokenizer, sides[1].tokenizer)
    tables, ids = (state.plugin, state.target), (shared.ids_a, shared.ids_b)
    exact, by_table = [], []
    for side, table, anchors, its_health in zip(sides, tables, ids, health, strict=True):
        rows = [side.tokenizer.encode(text) for text in texts]
        states = jnp.asarray(states_after(side.params, side.config, rows))
        p = jax.nn.softmax(unembed(side.params, side.config, states))
        whole = transfer_matrix(side.embeddings, anchors, temperature=its_health.temperature)
        exact.append(np.asarray(p @ whole))
        by_table.append(np.asarray(table.to_relative(p)))
    expected = [np.abs(a - b).sum(1).mean() / 2 for a, b in zip(exact, by_table, strict=True)]
    np.testing.assert_allclose(report.total_variation, expected, rtol=1e-3, atol=1e-5)
    for alpha, share in report.agreement.items():
        a, b = (np.argmax(alpha * s + (1 - alpha) * t, axis=1) for s, t in (exact, by_table))
        assert share == np.mean(a == b)


def test_beginnings_end_with_a_word_and_are_the_same_every_time():
    texts = fidelity.beginnings(30)
    assert texts == fidelity.beginnings(30) and len(set(texts)) == 30
    assert all(text and not text.endswith(" ") for text in texts)
