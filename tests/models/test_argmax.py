"""Two-stage ranking equals argmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.models import argmax
from onceedit_jax.models.argmax import likely_tokens, most_likely


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 5000), (3, 2, 1025)])
@given(seed=st.integers(0, 2**32 - 1), levels=st.sampled_from([1, 2, 1000]))
def test_the_most_likely_is_argmax_and_the_first_of_equal_ones(shape, seed, levels):
    logits = np.random.default_rng(seed).integers(0, levels, shape).astype(np.float32)
    np.testing.assert_array_equal(most_likely(logits), np.argmax(logits, axis=-1))


def test_a_vocabulary_of_which_nothing_is_possible_has_a_first_token():
    assert most_likely(jnp.full((2, 9), -jnp.inf)).tolist() == [0, 0]


@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([3, 40, 4100]))
def test_likely_tokens_are_distinct_and_hold_the_best_of_every_group(seed, size):
    logits = np.random.default_rng(seed).normal(size=(2, size)).astype(np.float32)
    found = np.asarray(likely_tokens(logits, 16))
    for row, tokens in zip(logits, found, strict=True):
        assert tokens[0] == row.argmax()
        assert len(set(tokens.tolist())) == len(tokens) == min(16, size)
        assert (np.diff(row[tokens]) <= 0).all()


def test_with_groups_of_one_they_are_the_top_tokens(monkeypatch):
    logits = jax.random.normal(jax.random.key(0), (4, 50))
    np.testing.assert_array_equal(likely_tokens(logits, 8), jax.lax.top_k(logits, 8)[1])
    monkeypatch.setattr(argmax, "GROUPS", 5)
    assert likely_tokens(logits, 8).shape == (4, 5)
