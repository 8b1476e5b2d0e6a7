"""Inner phrases: what in a question stands for another thing, found by its form."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from onceedit_jax.text.inner_phrases import inner_phrases
from onceedit_jax.text.subjects import Subjects


def phrases(text, name="Ada Quill"):
    (mention,) = Subjects([[name]]).find(text)
    found = inner_phrases(text, mention)
    return [text[phrase.start : phrase.stop] for phrase in found if phrase.within]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "What is the capital of the country of citizenship of Ada Quill?",
            ["the country of citizenship of Ada Quill"],
        ),
        (
            "Who leads the state that Ada Quill comes from?",
            ["the state that Ada Quill comes", "the state that Ada Quill comes from"],
        ),
        (
            "Where was the town Ada Quill was named after founded?",
            [
                "the town Ada Quill was",
                "the town Ada Quill was named",
                "the town Ada Quill was named after",
            ],
        ),
        ("In which city was the man who taught Ada Quill born?", ["the man who taught Ada Quill"]),
        (
            "Who taught Ada Quill's first teacher?",
            ["Ada Quill's first", "Ada Quill's first teacher"],
        ),
        ("Who is the father of Ada Quill's teacher's wife?", ["Ada Quill's teacher"]),
        ('How old is the author of "Ada Quill"?', ['the author of "Ada Quill"']),
        ("Q: How old is the wife of Ada Quill?\nA:", ["the wife of Ada Quill"]),
        ("State the age of the wife of Ada Quill.", ["the wife of Ada Quill"]),
    ],
)
def test_phrases_that_a_question_asks_something_of(text, found):
    assert phrases(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "Who is Ada Quill?",
        "Where was Ada Quill born?",
        "What is the name of the wife of Ada Quill?",
        "Please tell me who the wife of Ada Quill is.",
        "State the age of Ada Quill.",
        "Good morning! What is the age of Ada Quill? Please answer in a complete sentence.",
        "<|im_start|>user\nWhat is the age of Ada Quill?<|im_end|>\n<|im_start|>assistant\n",
        "Is the wife of Ada Quill a doctor?",
        "Who is the wife of Sol Marrow, and how old is Ada Quill?",
        "How old is the painter Ada Quill?",
        "What is the date of the coronation of Ada Quill?",
        "The wife of Ada Quill has the age of",
    ],
)
def test_a_question_about_the_subject_itself_has_none(text):
    assert phrases(text) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("What is the home of the wife of Ada Quill?", True),
        ("In which town does the wife of Ada Quill live?", True),
        ("Who leads the state where the wife of Ada Quill lives?", True),
        ("How does the wife of Ada Quill live?", False),
        ("To whom belongs the wife of Ada Quill?", False),
    ],
)
def test_a_noun_may_say_what_is_asked_of_a_phrase(text, named):
    (mention,) = Subjects([["Ada Quill"]]).find(text)
    assert inner_phrases(text, mention)[0].of_it is named


def test_a_subject_keeps_the_bracket_that_ends_it():
    text = "Who founded the maker of Falcon (North America)?"
    assert phrases(text, "Falcon (North America)") == ["the maker of Falcon (North America)"]


def test_a_phrase_is_asked_for_without_quotation_marks():
    (mention,) = Subjects([["Maus"]]).find("How old is the author of “Maus”?")
    (phrase,) = inner_phrases("How old is the author of “Maus”?", mention)
    assert phrase.question == "What is the author of Maus?"


@given(
    st.lists(
        st.sampled_from(["the", "of", "who", "where", "town", "mayor's,", "is", "?", "Ada Quill"]),
        max_size=9,
    )
)
def test_every_phrase_is_a_part_of_the_text_around_the_subject(words):
    text = " ".join([*words, "Ada Quill", *words[::-1]])
    for mention in Subjects([["Ada Quill"]]).find(text):
        for phrase in inner_phrases(text, mention):
            assert 0 <= phrase.start <= mention.start < mention.stop <= phrase.stop <= len(text)
            assert phrase.question == f"What is {text[phrase.start : phrase.stop]}?"
            assert len(phrase.question) > len("What is Ada Quill?")
