"""Rows of any length give the states of each row alone, whatever is shared or cached."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_config

from onceedit_jax.decoding.prefix_batching import (
    CachedRows,
    common_prefix,
    share_rows,
    states_after,
    tokens_after,
)
from onceedit_jax.distributed.bucketing import bucket, pad_rows, slices
from onceedit_jax.errors import InputError
from onceedit_jax.models.decoder import forward, unembed
from onceedit_jax.models.parameters import init_params

token_rows = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=12)


@given(token_rows)
def test_every_prefix_is_at_its_place_in_its_row(prefixes):
    rows, places = share_rows(prefixes)
    for prefix, (row, column) in zip(prefixes, places, strict=True):
        assert list(rows[row][: column + 1]) == prefix


@given(token_rows)
def test_no_row_is_the_prefix_of_another(prefixes):
    rows, _ = share_rows(prefixes)
    for i, row in enumerate(rows):
        assert not any(j != i and other[: len(row)] == row for j, other in enumerate(rows))


@given(st.integers(1, 5000), st.sampled_from([1, 2, 4, 8]))
def test_a_bucket_holds_its_size_and_wastes_little(size, smallest):
    width = bucket(size, smallest=smallest)
    assert width >= size
    assert width <= max(smallest, 1.5 * size)


def test_few_buckets_cover_all_lengths():
    assert len({bucket(size) for size in range(1, 1025)}) <= 16


def test_a_row_that_is_too_long_for_its_batch_raises():
    with pytest.raises(ValueError, match="3 tokens"):
        pad_rows([[1, 2, 3]], width=2)


@given(token_rows, st.data())
@settings(max_examples=10)
def test_the_last_states_of_a_prefix_are_those_of_its_own_prefixes(prefixes, data):
    config = tiny_config(20)
    params = init_params(config, jax.random.key(0))
    counts = [data.draw(st.integers(0, len(prefix))) for prefix in prefixes]
    each = [
        prefix[: len(prefix) - count + 1 + i]
        for prefix, count in zip(prefixes, counts, strict=True)
        for i in range(count)
    ]
    found = states_after(params, config, prefixes, counts)
    np.testing.assert_allclose(found, states_after(params, config, each), rtol=1e-5, atol=1e-6)


def test_a_text_beyond_the_context_raises():
    config = tiny_config(20, rope=None, max_positions=8)
    params = init_params(config, jax.random.key(0))
    states_after(params, config, [[1] * 8])
    with pytest.raises(InputError, match=r"9 tokens, .* a context of 8 tokens"):
        states_after(params, config, [[1], [1] * 9])
    rows = CachedRows(params, config, room=4)
    rows.advance([[1] * 7])
    with pytest.raises(InputError, match="a context of 8 tokens"):
        rows.advance([[1] * 9])


@pytest.mark.parametrize("count", [0, 1, 5, 70])
def test_next_tokens_are_the_argmax_whatever_their_number(model, count):
    states = np.random.default_rng(count).normal(size=(count, model.config.hidden_size))
    tokens = tokens_after(model.params, model.config, states.astype(np.float32))
    expected = np.argmax(logits(model, states.astype(np.float32)), -1)
    assert tokens.dtype == np.int32 and tokens.tolist() == expected.tolist()


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()[0]


def alone(model, row):
    """Reference: one unpadded forward pass of one row, its last logits."""
    tokens = np.array([row], np.int32)
    positions = np.arange(len(row), dtype=np.int32)[None]
    return np.asarray(forward(model.params, model.config, tokens, positions)[0][0, -1])


def logits(model, states):
    return np.asarray(unembed(model.params, model.config, states))


def test_states_after_prefixes_are_those_of_separate_passes(model):
    rng = np.random.default_rng(0)
    full = rng.integers(1, 250, 30).tolist()
    prefixes = [full[:3], full[:30], full[:17], [5], rng.integers(1, 250, 9).tolist(), full[:3]]
    states = states_after(model.params, model.config, prefixes)
    for prefix, state in zip(prefixes, states, strict=True):
        np.testing.assert_allclose(logits(model, state), alone(model, prefix), atol=2e-5)


@settings(max_examples=4)
@given(st.integers(0, 2**32 - 1))
def test_cached_rows_have_the_states_of_fresh_rows_after_any_rewriting(model, seed):
    """Rows grow, and are cut back and rewritten."""
    rng = np.random.default_rng(seed)
    cached = CachedRows(model.params, model.config, room=12)
    rows = [rng.integers(1, 250, n).tolist() for n in (4, 7, 1)]
    for _ in range(5):
        states = cached.advance(rows)
        fresh = states_after(model.params, model.config, rows)
        np.testing.assert_allclose(states[:, 0], fresh, atol=2e-5)
        cuts = [int(rng.integers(0, min(3, len(row)))) for row in rows]
        rows = [
            row[: len(row) - cut] + rng.integers(1, 250, int(rng.integers(1, 4))).tolist()
            for row, cut in zip(rows, cuts, strict=True)
        ]


def test_cached_rows_give_the_states_at_their_ends(model):
    rng = np.random.default_rng(1)
    cached = CachedRows(model.params, model.config, room=12)
    rows = [rng.integers(1, 250, n).tolist() for n in (6, 3)]
    cached.advance(rows)
    rows = [[*rows[0], 8, 9, 10], rows[1]]
    counts = [4, 2]  # of the first row 3 tokens are new, of the second none
    states = cached.advance(rows, counts)
    for i, count in enumerate(counts):
        prefixes = [rows[i][: len(rows[i]) - count + j + 1] for j in range(count)]
        fresh = states_after(model.params, model.config, prefixes)
        np.testing.assert_allclose(states[i, :count], fresh, atol=2e-5)


def test_a_common_prefix_ends_at_the_first_difference():
    assert common_prefix([1, 2, 3], [1, 2, 4, 5]) == 2
    assert common_prefix([], [1]) == 0


def test_rows_that_do_not_fill_a_batch_are_in_quarters_of_it():
    for rows, largest in ((0, 16), (16, 16), (37, 16), (2, 4), (5, 64)):
        parts = slices(rows, largest)
        assert [i for part in parts for i in range(rows)[part]] == list(range(rows))
        sizes = [part.stop - part.start for part in parts]
        assert [size for size in sizes if size > largest // 4] == [largest] * (rows // largest)
    assert slices(29, 16) == [slice(0, 16), slice(16, 29)]  # four passes would read all weights
