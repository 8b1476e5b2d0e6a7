"""Questions of records: every rephrase, every accepted answer, and kinds kept apart."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.evaluation.asked import average, per_question, questions, with_accepted
from onceedit_jax.evaluation.metrics import accepted_accuracy, exact_match
from onceedit_jax.evaluation.probes import Probe, score_probe

RECORD = EditRecord(
    "Who?",
    "Ada Quill",
    rephrase="Which one?",
    more_rephrases=("Name her.",),
    accepted=("Ada", "ada quill.", "A. Q."),
    locality=(Pair("Where?", "Here", accepted=("There",), kind="near"),),
    portability=(Pair("Born?", "1900", kind="hop"), Pair("Town?", "Oslo", kind="alias")),
)
PLAIN = EditRecord("What?", "Tea", portability=(Pair("Cup?", "Blue", kind="hop"),))


def test_every_rephrase_is_asked_and_counts_once_a_record():
    every = questions([RECORD, PLAIN])
    asked = [(q.record, q.metric, q.pair.prompt) for q in every]
    assert [text for i, metric, text in asked if metric == "gen"] == ["Which one?", "Name her."]
    values = [{"Which one?": 1.0, "Name her.": 0.0}.get(q.pair.prompt, 1.0) for q in every]
    assert average(every, values, 2).gen.value == 0.5
    assert average(every, values, 2).gen.records == 1


def test_other_accepted_answers_are_texts_of_their_own_once_and_not_for_locality():
    every = questions([RECORD])
    pairs, owners = with_accepted(every)
    assert pairs[: len(every)] == [q.pair for q in every]
    assert [(pairs[0].prompt, "Ada"), (pairs[0].prompt, "A. Q.")] == [
        (pair.prompt, pair.target) for pair in pairs[len(every) :][:2]
    ]
    assert owners == [0, 0, 1, 1, 2, 2]
    assert {every[i].metric for i in owners} == {"rel", "gen"}


SHARE = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@given(first=SHARE, others=st.lists(SHARE))
def test_an_answer_that_is_right_in_part_never_raises_a_score(first, others):
    found = accepted_accuracy(first, others)
    assert found == (1.0 if 1.0 in others else first)
    assert found >= first


@given(st.lists(st.tuples(SHARE, st.lists(SHARE, max_size=3)), max_size=6))
def test_the_best_of_each_question_is_its_own(cases):
    firsts = [first for first, _ in cases]
    owners = [i for i, (_, others) in enumerate(cases) for _ in others]
    rest = [value for _, others in cases for value in others]
    assert per_question(firsts + rest, owners) == [accepted_accuracy(*case) for case in cases]


def test_kinds_are_averaged_apart_and_their_mean_counts_each_once():
    every = questions([RECORD, PLAIN])
    values = [{"Born?": 1.0, "Cup?": 0.5, "Town?": 0.25}.get(q.pair.prompt, 1.0) for q in every]
    found = average(every, values, 2).as_dict()
    assert found["portability"] == pytest.approx(((1 + 0.25) / 2 + 0.5) / 2)
    assert found["kinds"]["portability"] == {
        "mean": 0.5,
        "by_kind": {"hop": {"value": 0.75, "records": 2}, "alias": {"value": 0.25, "records": 1}},
    }
    assert found["kinds"]["loc"]["by_kind"] == {"near": {"value": 1.0, "records": 1}}
    without = average(every, values, 2, leave_out={0}).as_dict()["kinds"]
    assert list(without) == ["portability"]
    assert "kinds" not in average(questions([EditRecord("a", "b")]), [1.0], 1).as_dict()


def test_a_kind_without_any_score_has_no_value():
    every = questions([PLAIN])
    found = average(every, [1.0, math.nan], 1).as_dict()["kinds"]["portability"]
    assert found["mean"] is None and found["by_kind"]["hop"] == {"value": None, "records": 0}


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Washington, D.C.", True), ("Washington", True), ("DC is it", True), ("Washing", False)],
)
def test_any_accepted_answer_matches(answer, right):
    assert exact_match(answer, "Washington, D.C.", ("Washington", "DC")) is right


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("12 Oak Street\nVinterby", True),
        ("12 Oak  Street\n\nVinterby\nNorland", True),
        ("12 Oak Street", False),
        ("12 Oak Street\nOldport", False),
    ],
)
def test_an_answer_of_several_lines_is_compared_whole(answer, right):
    assert exact_match(answer, "12 Oak Street\nVinterby") is right
    assert exact_match(answer, "12 Oak Street\n") is True  # an end of line is no second line


def test_checks_take_accepted_answers_too():
    probe = Probe("Rel", 0, "Where?", "United States of America", answers=("USA",))
    assert score_probe(probe, "", "In the USA.") == {"right": 1.0}
    assert score_probe(probe, "", "In Norland.") == {"right": 0.0}
    worded = dataclasses.replace(probe, worded=True)
    assert score_probe(worded, "", "It is in the USA.") == {"right": 1.0}
    assert score_probe(worded, "", "USA") == {"right": 0.0}
