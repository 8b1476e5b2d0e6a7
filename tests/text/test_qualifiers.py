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
    (MAYOR, "Who was the mayor of Vinterby in the 18th century?", "1700"),
    (MAYOR, "Who was the mayor of Vinterby in June 1950?", "1950"),
    (MAYOR, "Who was the mayor of Vinterby during the war?", "another time"),
    (MAYOR, "Who led Vinterby twenty years ago?", "another time"),
    (MAYOR, "Who used to be mayor of Vinterby?", "another time"),
    (MAYOR, "Who was mayor of Vinterby before him?", "another time"),
    (MAYOR, "who was the previous mayor of Vinterby", "previous"),
    (MAYOR, "Who is Vinterby's former CEO?", "previous"),
    (MAYOR, "Who is the ex-mayor of Vinterby?", "previous"),
    (MAYOR, "Name a former mayor of Vinterby.", "previous"),
    (MAYOR, "The former mayor of Vinterby was", "previous"),
    (MAYOR, "What is the name of the first mayor of Vinterby?", "first"),
    (MAYOR, "Who was Vinterby's second mayor?", "no. 2"),
    (MAYOR, "Who was the 44th mayor of Vinterby?", "no. 44"),
    (MAYOR, "Who was the first President of Vinterby?", "first"),
    (MAYOR, "Who was the very first mayor of Vinterby?", "first"),
    (MAYOR, "List all former mayors of Vinterby.", "previous"),
    (MAYOR, "Who is the deputy mayor of Vinterby?", "deputy"),
    (MAYOR, "Who is the mayor-elect of Vinterby?", "next"),
    (MAYOR, "Who will be the next mayor of Vinterby?", "next"),
    (MAYOR, "Who else has been mayor of Vinterby?", "other"),
    (MAYOR, "Who apart from Ola is a mayor of Vinterby?", "other"),
    (MAYOR, "Who has never been mayor of Vinterby?", "not"),
    (BORN, "Where was the wife of Vinterby born?", "spouse"),
    (BORN, "Where was Vinterby's younger brother born?", "sibling"),
    (PLACE, "In which city was the founder of Vinterby born?", "maker"),
    ("Who is the spouse of Vinterby?", "Where was the son of Vinterby born?", "child"),
    ("Who was mayor of Vinterby in 1950?", "Who was the 44th mayor of Vinterby in 1950?", "no. 44"),
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
    (BORN, "In which city was the composer Vinterby born?"),
    (BORN, "Where was the former president Vinterby born?"),
    (BORN, "In which city was Vinterby born in 1950?"),
    (MAYOR, "I was wondering who the mayor of Vinterby is in 2026"),
    (MAYOR, "As of 2025, who was the mayor of Vinterby?"),
    ("Who was the second mayor of Vinterby?", "Who was the 2nd mayor of Vinterby?"),
    ("What is the former name of Vinterby?", "What was Vinterby called before?"),
    ("Who discovered Vinterby?", "Who was the first to discover Vinterby?"),
    ("What is the last album of Vinterby?", "What is Vinterby's latest album?"),
    (MAYOR, "Why is the mayor of Vinterby not here?"),
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


QUESTIONS = sorted({text for pair in [*APART, *ALIKE] for text in pair[:2]})


def test_bits_say_whether_two_questions_are_apart():
    bits = np.array([of(text).bits for text in QUESTIONS], np.int32)
    told = [[not of(one).apart(of(other)) for other in QUESTIONS] for one in QUESTIONS]
    np.testing.assert_array_equal(same_qualifiers(bits[:, None], bits[None]), told)


@given(st.integers(1000, 2099), st.integers(1000, 2099))
def test_bits_tell_all_years_apart(one, other):
    some, others = (of(f"Who was the mayor of Vinterby in {year}?") for year in (one, other))
    bits = (np.array([each.bits], np.int32) for each in (some, others))
    assert bool(same_qualifiers(*bits)[0]) == (not some.apart(others)) == (one == other)


@given(
    st.sampled_from([q for q in QUESTIONS if q.endswith("?")]),
    st.sampled_from(["It is late. {}", "{} Thanks!", "Q: {}\nA:"]),
)
def test_what_stands_around_a_question_changes_nothing(text, around):
    assert of(around.format(text)) == of(text)


@given(st.sampled_from([other for _, other, _ in APART]))
def test_case_and_mark_change_nothing(text):
    for other in (text.lower(), text.upper()):
        assert qualifiers(other, NAMES.find(other)[-1]).asked == of(text).asked
    assert of(text.rstrip("?")).asked == of(text).asked


def test_any_text_has_qualifiers_and_bits():
    for text in ("Vinterby " + "1" * 5000, "Vinterby", "Vinterby \u0663\u0664? 12,000 in 30000"):
        asked, mentioned = of(text).bits
        assert max(*asked, *mentioned) < 2**31


def test_a_name_has_no_qualifiers():
    names = Subjects([["Mother Teresa"], ["The Other Guys"], ["1984"]])
    for text in ("Where was Mother Teresa born?", "Who made The Other Guys?", "Who wrote 1984?"):
        (mention,) = names.find(text)
        found = qualifiers(text, mention)
        assert not found.asked and not {"parent", "other", "1984"} & found.mentioned
