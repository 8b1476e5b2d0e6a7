"""Metrics: reliability, generality, locality and exact match, on small cases and by properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.data.normalization import normalise
from onceedit_jax.evaluation.metrics import (
    agreement,
    exact_match,
    macro_average,
    record_means,
    scores,
    token_accuracy,
)

NAN = float("nan")


def test_accuracy_is_the_share_of_a_rows_scored_tokens():
    predicted = [[1, 2, 3, 9], [1, 2, 3, 4], [7, 7, 7, 7]]
    gold = [[1, 2, 4, 0], [1, 0, 0, 4], [7, 7, 7, 7]]
    mask = [[1, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    shares = token_accuracy(predicted, gold, mask)
    np.testing.assert_allclose(shares, [2 / 3, 1 / 2, NAN])
    assert token_accuracy(predicted[0], gold[0], mask[0]) == shares[0]
    assert token_accuracy(predicted[0], gold[0]) == 1 / 2  # every token is scored


def test_locality_compares_a_model_with_itself_before_and_not_with_the_gold_answer():
    before, after = [[5, 6, 7]], [[5, 6, 8]]
    np.testing.assert_allclose(agreement(after, before, [[1, 1, 1]]), [2 / 3])
    np.testing.assert_allclose(agreement(before, before, [[1, 1, 1]]), [1.0])


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3), (2, 2)), ((3,), (2,), (3,)), ((), (), ())])
def test_accuracy_raises_for_shapes_that_differ(shapes):
    with pytest.raises(ValueError, match=r"one shape \[\.\.\., T\]"):
        token_accuracy(*(np.zeros(shape, int) for shape in shapes))


def test_a_record_counts_once_whatever_the_number_of_its_texts():
    means = record_means([1.0, 0.0, 0.5, NAN], [0, 0, 2, 2], 4)
    np.testing.assert_allclose(means, [0.5, NAN, 0.5, NAN])
    average = macro_average(means)
    assert (average.value, average.records) == (0.5, 2)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), max_size=20), st.randoms())
def test_record_means_do_not_depend_on_the_order_of_texts(texts, random):
    shuffled = list(texts)
    random.shuffle(shuffled)
    expected = [
        np.mean([value for value, owner in texts if owner == record])
        if any(owner == record for _, owner in texts)
        else NAN
        for record in range(5)
    ]
    for order in (texts, shuffled):
        means = record_means([v for v, _ in order], [o for _, o in order], 5)
        np.testing.assert_allclose(means, expected, atol=1e-12)


@pytest.mark.parametrize("owners", [[-1], [2], [0, 1]])
def test_record_means_raise_for_owners_that_are_not_records(owners):
    with pytest.raises(ValueError, match="owners"):
        record_means([1.0], owners, 2)


def test_avg_is_the_mean_of_three_scores_and_none_if_one_is_missing():
    whole = scores([1.0, 0.5], [0.5, NAN], [1.0, 1.0])
    assert whole.as_dict() == {
        "rel": 0.75,
        "gen": 0.5,
        "loc": 1.0,
        "portability": None,
        "avg": 0.75,
        "counts": {"rel": 2, "gen": 1, "loc": 2, "portability": 0},
    }
    assert scores([1.0], [NAN], [1.0]).avg is None
    assert scores([1.0], [1.0], [1.0], [0.5]).portability.value == 0.5


def test_no_records_give_none_and_not_nan():
    assert scores([], [], []).as_dict()["rel"] is None
    assert not any(
        isinstance(value, float) and math.isnan(value)
        for value in scores([NAN], [NAN], [NAN]).as_dict().values()
    )


@pytest.mark.parametrize(
    ("answer", "target", "matches"),
    [
        ("Paris", "Paris", True),
        (" paris, France", "Paris", True),
        ("Paris\nLondon", "Paris", True),
        ("\nParis", "Paris", False),
        ("Parisian", "Paris", False),
        ("It is Paris", "Paris", False),
        ("“Paris”.", "Paris", True),
        ("C# is a language", "C", True),
        ("C", "C#", False),
        ("1945 AD", "19", False),
        ("", "Paris", False),
        ("anything", "", False),
        ("STRASSE", "Straße", True),
    ],
)
def test_an_exact_match_begins_with_the_normalised_target(answer, target, matches):
    assert exact_match(answer, target) is matches


@given(st.text())
def test_normalising_twice_is_normalising_once(text):
    once = normalise(text)
    assert normalise(once) == once


@given(st.text(), st.sampled_from([" ", "\t", " \n", "\u00a0"]))
def test_case_and_white_space_around_a_text_are_ignored(text, blank):
    assert normalise(blank + text + blank) == normalise(text)
    assert normalise(text.casefold()) == normalise(text)


@given(st.text().filter(lambda t: any(c.isalnum() for c in normalise(t.split("\n")[0]))))
def test_every_one_line_answer_matches_itself(text):
    line = next(iter(text.splitlines()), "")
    if normalise(line):
        assert exact_match(line, line)


@pytest.mark.parametrize(
    ("one", "other"), [("$100", "100"), ("-5", "5"), ("C#", "C"), ("a b", "ab")]
)
def test_signs_that_change_an_answer_are_kept(one, other):
    assert normalise(one) != normalise(other)
