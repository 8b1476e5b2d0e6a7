"""Forms of a question: signs, case, openings, closings, chat."""

import numpy as np
import pytest

from onceedit_jax.evaluation.forms import forms
from onceedit_jax.text.asking import (
    drawn_form,
    lacks_mark,
    lower_first,
    sentence_forms,
    short_forms,
    with_mark,
    without_mark,
)

QUESTION = "Where was Ada Quill born?"


def test_every_form_asks_the_question():
    for form in [*(text for kind in short_forms(QUESTION) for text in kind)]:
        assert "ada quill" in form.lower() and "born" in form.lower()
    assert short_forms(QUESTION)[0][0] == QUESTION
    assert all("ada quill" in form.lower() for form in sentence_forms(QUESTION))


@pytest.mark.parametrize(
    ("question", "inside"),
    [
        ("Where is Oslo?", "where is Oslo?"),
        ("Oslo is where?", "Oslo is where?"),
        ("NASA was founded when?", "NASA was founded when?"),
        ("", ""),
    ],
)
def test_a_name_keeps_its_capital_inside_a_sentence(question, inside):
    assert lower_first(question) == inside


def test_a_question_of_signs_alone_keeps_them():
    assert without_mark("?") == "?" and without_mark("Who? ") == "Who"


def test_the_plain_kind_is_drawn_as_often_as_all_others():
    rng = np.random.default_rng(0)
    drawn = [drawn_form([["a"], ["b"], ["c", "d"]], rng) for _ in range(2000)]
    assert 0.45 < drawn.count("a") / 2000 < 0.55
    assert 0.2 < drawn.count("b") / 2000 < 0.3


def test_the_twelve_forms_that_are_measured():
    by_name = {name: form(QUESTION) for name, form in forms().items()}
    assert len(by_name) == len(set(by_name.values())) == 12
    assert by_name["lower case, no mark"] == "where was ada quill born"
    assert forms(statement="She was born in")["statement"](QUESTION) == "She was born in"


def test_sentences_that_are_measured_are_not_trained():
    trained = {form for kind in short_forms(QUESTION) for form in kind}
    trained |= set(sentence_forms(QUESTION))
    worded = ("request", "greeting before", "sentence before", "whole sentence")
    assert not trained & {forms()[name](QUESTION) for name in worded}


@pytest.mark.parametrize(
    "text",
    [
        "who leads Norland",
        "In which city is it",
        "Hello, there. what is its capital \n",
        "Q: how tall is it",
        "is it a city",
    ],
)
def test_a_question_without_its_mark_is_known(text):
    assert lacks_mark(text)
    marked = with_mark(text)
    assert marked.replace("?", "") == text and marked.rstrip().endswith("?")
    assert not lacks_mark(marked)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "who",
        "? \uff9e",
        "Tuvalu? \uff9e",
        "The capital of Norland is",
        "How I Met Your Mother was created by",
        "When the war ended, the capital of Norland was",
        "Its capital",
        "Where is it?",
        "Wo liegt Norland",
        "who leads Norland.",
    ],
)
def test_what_is_no_question_or_has_its_mark_gets_none(text):
    assert not lacks_mark(text)
