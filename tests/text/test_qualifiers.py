"""Questions of one subject and relation that ask for different facts are told apart."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from onceedit_jax.gates.fact import same_qualifiers
from onceedit_jax.text.qualifiers import qualifiers
from onceedit_jax.text.subjects import Subjects

NAMES = Subjects([["Vinterby"]])
MAYOR = "Who is the mayor of Vinterby?"
PLACE = "Where is Vinterby located?"
BORN = "Where was Vinterby born?"
APART = [
    (MAYOR, "Who was the mayor of Vinterby in 1950?", "1950"),
    (MAYOR, "In the 1950s, who was the mayor of Vinterby?", "1950"),
    (MAYOR, "Who was the mayor of Vinterby in the 18th century?", "18"),
    (MAYOR, "Who led Vinterby twenty years ago?", "another time"),
    (MAYOR, "Who used to be mayor of Vinterby?", "another time"),
    (MAYOR, "Who was mayor of Vinterby before him?", "another time"),
    (MAYOR, "who was the previous mayor of Vinterby", "previous"),
    (MAYOR, "Who is Vinterby's former CEO?", "previous"),
    (MAYOR, "Who is the ex-mayor of Vinterby?", "previous"),
    (MAYOR, "Name a former mayor of Vinterby.", "previous"),
    (MAYOR, "The former mayor of Vinterby was", "previous"),
    (MAYOR, "What is the name of the first mayor of Vinterby?", "first"),
    (MAYOR, "Who was Vinterby's second mayor?", "second"),
    (MAYOR, "Who will be the next mayor of Vinterby?", "next"),
    (MAYOR, "Who else has been mayor of Vinterby?", "other"),
    (MAYOR, "Who apart from Ola is a mayor of Vinterby?", "other"),
    (MAYOR, "Who has never been mayor of Vinterby?", "not"),
    (BORN, "Where was the wife of Vinterby born?", "spouse"),
    (BORN, "Where was Vinterby's younger brother born?", "sibling"),
    (PLACE, "In which city was the founder of Vinterby born?", "maker"),
    ("Who is the spouse of Vinterby?", "Where was the son of Vinterby born?", "child"),
]
ALIKE = [
    (MAYOR, "Who is the mayor of Vinterby in 2026?"),
    (MAYOR, "Who's the current mayor of Vinterby?"),
    (MAYOR, "As of today, who is mayor of Vinterby?"),
    (MAYOR, "Is it true that the first mayor of Vinterby was Ola?"),  # answered by yes or no
    (MAYOR, "How old is the wife of the mayor of Vinterby?"),  # asks of the edit's answer
    ("Who founded Vinterby?", "In which city was the founder of Vinterby born?"),
    ("Who is behind Vinterby?", "In which city was the founder of Vinterby born?"),
    ("Who is the spouse of Vinterby?", "Where was the wife of Vinterby born?"),
    ("Who is the spouse of Vinterby?", "Who is Vinterby's wife?"),
    ("Who was the first mayor of Vinterby?", "Tell me the first mayor of Vinterby."),
    ("What is the premiere of Vinterby?", "What was the first performance of Vinterby?"),
    ("When was Vinterby performed?", "When was Vinterby first performed?"),
    ("What is the given name of Vinterby?", "What is the first name of Vinterby?"),
    (BORN, "Where was Vinterby born, who fought in the Second World War?"),
    ("What instrument does Vinterby need?", "What instrument is used to play Vinterby?"),
]


def of(text):
    return qualifiers(text, NAMES.find(text)[-1])


@pytest.mark.parametrize(("one", "other", "word"), APART)
def test_what_asks_for_another_fact_is_told_apart_by_a_word(one, other, word):
    assert of(one).apart(of(other)) == of(other).apart(of(one)) == {word}


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_what_asks_for_the_same_is_not(one, other):
    assert not of(one).apart(of(other))


QUESTIONS = st.sampled_from([text for pair in [*APART, *ALIKE] for text in pair[:2]])


@given(QUESTIONS, QUESTIONS)
def test_bits_say_whether_two_questions_are_apart(one, other):
    some, others = (np.array([of(text).bits], np.int32) for text in (one, other))
    assert of(one).asked <= of(one).mentioned
    assert bool(same_qualifiers(some, others)[0]) == (not of(one).apart(of(other)))


@given(QUESTIONS, st.sampled_from(["It is late. {}", "{} Thanks a lot!", "Q: {}\nA:", "> {}"]))
def test_what_stands_around_a_question_changes_nothing(text, around):
    assert of(around.format(text)).asked == of(text).asked


@given(st.sampled_from([other for _, other, _ in APART]))
def test_case_and_mark_change_nothing(text):
    assert qualifiers(text.lower(), NAMES.find(text.lower())[-1]).asked == of(text).asked
    assert of(text.rstrip("?")).asked == of(text).asked
