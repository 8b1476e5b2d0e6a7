"""States are remembered by the tokens before them."""

import numpy as np
import pytest

from onceedit_jax.decoding import known_states
from onceedit_jax.decoding.known_states import KnownStates


def states(*values):
    return np.array(values, np.float32)[:, None] * np.ones(3, np.float32)


@pytest.fixture
def known():
    known = KnownStates()
    known.expect([1, 2], [3, 4])
    known.expect([1, 2], [5])
    known.keep([1, 2], [3, 4], states(2, 3, 4))
    return known


def test_the_first_continuation_is_expected(known):
    assert known.expected([[1, 2], [7]]) == [(3, 4), ()]
    assert known.expected([[7], [1]]) is None


@pytest.mark.parametrize(
    ("tokens", "count", "expected"),
    [
        ([1, 2], 1, [2]),
        ([1, 2, 3], 2, [2, 3]),
        ([1, 2, 3, 4], 3, [2, 3, 4]),
        ([1, 2, 3, 4], 1, [4]),
        ([1, 2, 3], 3, None),
        ([1, 2, 4], 1, None),
        ([1, 2, 3, 4, 5], 2, None),
    ],
)
def test_states_are_found_if_all_are_known(known, tokens, count, expected):
    found = known.after(tokens, count)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, states(*expected))


def test_memory_is_bounded(known, monkeypatch):
    monkeypatch.setattr(known_states, "MOST_STATES", 6)
    known.expect([9], [8])
    known.expect([7], [8])
    assert known.expected([[9], [7]]) == [(8,), ()]
    known.forget()
    known.expect([7], [8])
    assert known.expected([[9], [7]]) == [(), (8,)]
    assert known.after([1, 2], 1) is None


def test_long_continuations_are_read_in_part(known):
    known.expect([9], range(40))
    assert known.expected([[9]]) == [tuple(range(15))]
    assert known.expected([[9]], most=2) == [(0, 1)]
