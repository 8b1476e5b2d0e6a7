"""Drawing tokens: the same as by sorting a vocabulary and summing it up, whatever its size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.decoding.sampling import (
    GROUPS,
    Sampling,
    draw,
    inverse_cdf,
    log_probabilities,
    nucleus,
    sampling_of,
)

SIZES = (5, GROUPS - 1, GROUPS + 3, 3 * GROUPS + 1)
rows = st.lists(st.floats(-8, 8, width=32), min_size=5, max_size=5)
parts = st.floats(1 / 64, 1, width=32)


def tokens(logits, temperature=1.0, top_p=1.0, uniform=0.5):
    count = len(logits)
    settings = [(temperature, top_p, uniform)] * count
    return np.asarray(draw(jnp.asarray(logits, jnp.float32), sampling_of(settings, count)))


@given(rows, parts)
def test_the_nucleus_is_the_fewest_of_the_likeliest_tokens(logits, top_p):
    weights = np.asarray(jax.nn.softmax(jnp.asarray([logits], jnp.float32)))
    kept = np.asarray(nucleus(jnp.asarray(weights), np.float32([top_p])))[0]
    own = weights[0]
    assert set(kept[kept > 0].tolist()) <= set(own.tolist())
    # Rounding may move a bound that the sum nearly meets.
    assert kept.sum() >= top_p - 1e-5
    least = kept[kept > 0].min()
    assert own[own > least * (1 + 1e-5)].sum() < top_p + 1e-5
    assert (kept[own >= least] > 0).all()


@pytest.mark.parametrize("size", SIZES)
def test_a_token_is_drawn_where_the_cumulated_weights_exceed_the_number(size):
    generator = np.random.default_rng(size)
    weights = generator.random((4, size)).astype(np.float32) ** 8
    weights[:, generator.integers(size, size=size // 2)] = 0
    uniform = generator.random(4).astype(np.float32)
    drawn = np.asarray(inverse_cdf(jnp.asarray(weights), uniform))
    for row, u, token in zip(weights.astype(float), uniform, drawn, strict=True):
        ends = row.cumsum() / row.sum()
        assert row[token] > 0
        assert ends[token] > u - 1e-4 and (token == 0 or ends[token - 1] <= u + 1e-4)


@pytest.mark.parametrize("uniform", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_the_ends_of_the_interval_draw_a_token_that_may_be(uniform):
    weights = jnp.zeros((1, 3000)).at[0, jnp.array([7, 2900])].set(0.5)
    assert inverse_cdf(weights, np.float32([uniform])).tolist() == [7 if uniform == 0 else 2900]


def test_tokens_come_as_often_as_they_are_likely():
    logits = jnp.log(jnp.array([0.5, 0.2, 0.3]))
    count = 3000
    uniform = np.random.default_rng(0).random(count, np.float32)
    drawn = draw(
        jnp.broadcast_to(logits, (count, 3)),
        Sampling(np.ones(count, np.float32), np.ones(count, np.float32), uniform),
    )
    shares = np.bincount(np.asarray(drawn), minlength=3) / count
    assert np.abs(shares - [0.5, 0.2, 0.3]).max() < 0.03


def test_every_row_has_settings_of_its_own():
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.4, 0.35, 0.25])), (3, 3))
    settings = sampling_of([(0.0, 1.0, 0.9), (1.0, 1.0, 0.9), (1.0, 0.5, 0.9)], 3)
    assert draw(logits, settings).tolist() == [0, 2, 1]


def test_temperature_sharpens_and_flattens():
    logits = [[2.0, 1.0, 0.0]]
    assert tokens(logits, 0.05, uniform=0.99).tolist() == [0]
    assert tokens(logits, 1.0, uniform=0.99).tolist() == [2]
    assert tokens(logits, 100.0, uniform=0.34).tolist() == [1]


def test_log_probabilities_are_those_of_the_model(tiny_model):
    model, _ = tiny_model()
    states = jax.random.normal(jax.random.key(0), (3, model.config.hidden_size))
    chosen = np.array([4, 0, 9], np.int32)
    found = log_probabilities(model.params, model.config, states, chosen, top=5)
    logs = jax.nn.log_softmax(states @ model.params["embed"]["tokens"].T, axis=-1)
    np.testing.assert_allclose(found.chosen, logs[np.arange(3), chosen], atol=1e-5)
    order = np.argsort(-np.asarray(logs), axis=-1)[:, :5]
    assert np.asarray(found.tokens).tolist() == order.tolist()


@pytest.mark.parametrize("temperature", [1e-45, 1e-38, 1e-6, 1e-5, 1e-3])
def test_a_small_temperature_takes_the_likeliest_token(temperature):
    logits = [[3e4, 2e4, -3e4], [-3e4, -2e4, -1e4], [0.0, 1.0, 0.5]]
    assert tokens(logits, temperature, top_p=0.9, uniform=0.99).tolist() == [0, 2, 1]
