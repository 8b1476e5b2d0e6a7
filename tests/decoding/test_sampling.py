"""Drawing tokens: the same as by sorting a vocabulary and summing it up, whatever its size."""

import drawn_by_numpy
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.decoding import sampling as sampling_module
from onceedit_jax.decoding.draws import Draw, sampling_of
from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.decoding.sampling import (
    GROUPS,
    draw,
    inverse_cdf,
    log_probabilities,
    nucleus,
)

drawn_from = jax.jit(sampling_module.drawn_from)
likeliest_k = jax.jit(sampling_module.likeliest_k)
SIZES = (5, GROUPS - 1, GROUPS + 3, 3 * GROUPS + 1)
rows = st.lists(st.floats(-8, 8, width=32), min_size=5, max_size=5)
parts = st.floats(1 / 64, 1, width=32)


def sampling(rows):
    """Rows of settings, each with the numbers that draw its tokens."""
    return sampling_of([Draw(each, np.float32(numbers)) for each, numbers in rows], len(rows))


def tokens(logits, temperature=1.0, top_p=1.0, uniform=0.5):
    rows = sampling([(SamplingSettings(temperature, top_p), [uniform])] * len(logits))
    return np.asarray(draw(jnp.asarray(logits, jnp.float32), rows))


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


levels = st.lists(st.integers(-40, 40).map(lambda n: n / 8), min_size=7, max_size=7)


@given(
    st.lists(levels, min_size=3, max_size=3), st.lists(st.integers(0, 9), min_size=3, max_size=3)
)
def test_the_k_likeliest_are_those_of_a_sort(scores, top_k):
    """With as many ties as the few levels give."""
    scores = np.float32(scores)
    scores = np.where(scores > 4, -np.inf, scores - scores.max(axis=1, keepdims=True))
    found = np.asarray(likeliest_k(jnp.asarray(scores), np.int32(top_k)))
    for row, kept, k in zip(scores, found, top_k, strict=True):
        least = -np.inf if k == 0 else np.sort(row)[::-1][:k][-1]
        np.testing.assert_array_equal(kept, np.where(row >= least, row, -np.inf))


def test_the_k_likeliest_are_told_apart_by_the_last_bit():
    close = -np.float32(3e-9) * (1 + np.arange(8) * np.finfo(np.float32).eps)
    scores = np.float32([[-1e30, *close, -2.0, 0.0, -0.0], [-np.inf, *close, -1e-30, -5, -7]])
    for k in range(1, scores.shape[1] + 1):
        found = np.asarray(likeliest_k(jnp.asarray(scores), np.int32([k, k])))
        least = np.sort(scores)[:, ::-1][:, k - 1 : k]
        np.testing.assert_array_equal(found, np.where(scores >= least, scores, -np.inf))


mixed = st.builds(
    SamplingSettings,
    temperature=st.sampled_from([0.25, 0.7, 1.0, 3.0]),
    top_p=parts,
    top_k=st.integers(0, 9),
)


@given(st.lists(mixed, min_size=3, max_size=3), st.integers(0, 2**32 - 1))
def test_tokens_are_drawn_from_the_distribution_that_a_sort_gives(settings, seed):
    """Each row by settings of its own."""
    generator = np.random.default_rng(seed)
    logits, uniform = 3 * generator.normal(size=(3, 7)), generator.random((3, 1))
    logits = logits.astype(np.float32)
    rows = sampling(list(zip(settings, uniform, strict=True)))
    found = np.asarray(drawn_from(jnp.asarray(logits), rows), np.float64)
    expected = [drawn_by_numpy.weights(*each) for each in zip(logits, settings, strict=True)]
    shares = found / found.sum(axis=1, keepdims=True)
    for ours, theirs, each in zip(shares, expected, settings, strict=True):
        # Rounding decides where the sum is top_p to the last bits.
        ends = np.cumsum(np.sort(theirs)[::-1])
        if np.abs(ends - each.top_p).min() > 1e-5 or each.top_p == 1:
            np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [
    (0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.6), (0.9, 12, 0.8), (2.0, 3, 0.4), (1.0, 60, 0.99),
])  # fmt: skip
def test_distributions_are_those_of_transformers(temperature, top_k, top_p):
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = 4 * np.random.default_rng(top_k).normal(size=(4, 50)).astype(np.float32)
    rows = sampling([(SamplingSettings(temperature, top_p, top_k), [0.5])] * 4)
    found = np.asarray(drawn_from(jnp.asarray(logits), rows))
    scores = warpers.TemperatureLogitsWarper(temperature)(None, torch.tensor(logits))
    if top_k:
        scores = warpers.TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = warpers.TopPLogitsWarper(top_p)(None, scores)
    expected = torch.softmax(scores, dim=-1).numpy()
    assert ((found > 0) == (expected > 0)).all()
    np.testing.assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=1e-6)


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
    uniform = np.random.default_rng(0).random((count, 1), np.float32)
    rows = sampling([(SamplingSettings(1.0), each) for each in uniform])
    drawn = draw(jnp.broadcast_to(logits, (count, 3)), rows)
    shares = np.bincount(np.asarray(drawn), minlength=3) / count
    assert np.abs(shares - [0.5, 0.2, 0.3]).max() < 0.03


def test_every_row_has_settings_of_its_own():
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.4, 0.35, 0.25])), (4, 3))
    settings = [(0.0, 1.0, 0), (1.0, 1.0, 0), (1.0, 0.5, 0), (1.0, 1.0, 2)]
    rows = sampling([(SamplingSettings(*each), [0.1, 0.9]) for each in settings])
    assert draw(logits, rows).tolist() == [0, 0, 0, 0]
    assert draw(logits, rows, 1).tolist() == [0, 2, 1, 1]


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
