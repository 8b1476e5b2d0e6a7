"""A schema says what a value must be; what is not that is named with its key."""

import math

import numpy as np
import pytest

from onceedit_jax.errors import InputError
from onceedit_jax.storage.schema import (
    AnyOf,
    Flag,
    Integer,
    ListOf,
    Maybe,
    Mismatch,
    Number,
    Numbers,
    ObjectOf,
    Record,
    Text,
    Texts,
    check,
    check_depth,
)


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Integer(1, 9), [1, 9], [0, 10, True, 2.0, "3", None, 2**70]),
        (Number(0.5, 2), [0.5, 1, 2.0], [0.4, 3, True, "1", math.nan, math.inf, 10**400]),
        (Number(), [-1e300, 7], [math.nan, -math.inf]),
        (Flag(), [True, False], [0, 1, "true", None]),
        (Text(("a", "b")), ["a"], ["c", 1, None]),
        (Text(least=1, most=2), ["x", "xy"], ["", "xyz"]),
        (Maybe(Flag()), [None, True], [0]),
        (AnyOf((Integer(), Text())), [1, "x"], [1.5, None, []]),
        (ListOf(Integer(), most=2), [[], [1, 2]], [[1, 2, 3], ["x"], (1,), {}]),
        (ObjectOf(Integer()), [{}, {"a": 1}], [{"a": "x"}, [], None]),
        (Record({"a": Flag()}, ("a",)), [{"a": True, "b": 1}], [{}, {"a": 1}, []]),
        (Record({"a": Flag()}, closed=True), [{"b": None}], [{"b": 1}]),
        (Texts(2), [["ab"]], [["abc"], "ab"]),
        (Numbers("f"), [np.ones(2)], [np.array([1, math.nan]), np.ones(2, int), [1.0]]),
        (Numbers("iu", 1, 6), [np.array([1, 6])], [np.array([0]), np.array([7])]),
    ],
)
def test_a_kind_takes_what_it_says_and_nothing_else(kind, right, wrong):
    for value in right:
        kind.check(value, "key")
    for value in wrong:
        with pytest.raises(Mismatch, match="key"):
            kind.check(value, "key")


def test_a_mismatch_names_file_key_value_and_remedy_on_one_line():
    kind = Record({"rope": Record({"theta": Number(1, 9)})})
    with pytest.raises(InputError) as caught:
        check(kind, {"rope": {"theta": "\x1b[31m\n" * 99}}, file="f.json", remedy="fetch it again")
    text = str(caught.value)
    assert text.startswith("f.json: rope.theta is '\\x1b[31m\\n")
    assert text.endswith("expected a number from 1 to 9: fetch it again")
    assert text.isprintable() and len(text) < 200


def test_nesting_is_bounded():
    value = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(Mismatch, match="at most 64 levels"):
        check_depth(value)
    check_depth({"a": [[1]]})
