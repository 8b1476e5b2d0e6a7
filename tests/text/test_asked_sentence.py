"""What a text asks of a subject, among sentences that ask something else or nothing."""

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from onceedit_jax.text.asked_sentence import (
    asked_part,
    sentence_start,
    sentences,
    where_asked,
    without_remarks,
)
from onceedit_jax.text.subjects import Subjects

QUILL = Subjects([["Ada Quill"]])
QUESTION = "Where was Ada Quill born?"
SAID = st.sampled_from(
    ["It is late. ", "I like Ada Quill. ", "So there!\n\n", "Thanks for all! ", "Ann Lee\n"]
)


def asked(text):
    return asked_part(text, where_asked(text, QUILL.find(text)))


def read(text, own=""):
    return without_remarks(text, where_asked(text, QUILL.find(text)), own)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (QUESTION, "Where was it born?"),
        ("It is late. Where was Ada Quill born?", "Where was it born?"),
        ("Q: Where was Ada Quill born?\nA:", "Where was it born?\nA:"),
        ("Hello! Ada Quill's father is", "it's father is"),
        ("Who taught Dr. Ada Quill, of Norland?", "Who taught Dr. it, of Norland?"),
        ("Who taught Prof. Ada Quill?", "Who taught Prof. it?"),
        ("It was plan B. Where was Ada Quill born?", "Where was it born?"),
        # What stands around the question.
        ("Where was Ada Quill born? Thanks a lot!", "Where was it born?"),
        ("Where was Ada Quill born? I need it for a quiz.", "Where was it born?"),
        ("Where was Ada Quill born?\n\nThanks\nTom", "Where was it born?"),
        (
            "Ada Quill is dead. Where was Ada Quill born? Ada Quill is new to me.",
            "Where was it born?",
        ),
        ("Please tell me the age of Ada Quill. It is for school.", "Please tell me the age of it."),
        ("Ada Quill is dead. Ada Quill, a native of", "it, a native of"),
        # What belongs to it.
        ("Where was Ada Quill born? She was born in", "Where was it born? She was born in"),
        ("What does Ada Quill play? She plays", "What does it play? She plays"),
        ("Ada Quill is dead. Where was she born?", "it is dead. Where was she born?"),
        ("Where was Ada Quill born? And her mother?", "Where was it born? And her mother?"),
        ("I met Ada Quill. Write a poem.", "I met it. Write a poem."),
    ],
)
def test_what_a_text_asks_of_a_subject(text, part):
    assert asked(text) == part


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"I met Ada Quill. {QUESTION} I need it by noon.", QUESTION),
        (f"Hello! {QUESTION}", QUESTION),
        (f"{QUESTION} Answer in one word.", QUESTION),
        (f"{QUESTION} It rains. Explain it.", f"{QUESTION} Explain it."),
        (f"{QUESTION} Write two sentences.", f"{QUESTION} Write two sentences."),
        (f"{QUESTION} Do not explain it.", QUESTION),
        (f"{QUESTION} Nobody here knows any more, and so on.", QUESTION),
        (f"Q: {QUESTION}\nA:", f"Q: {QUESTION}\nA:"),
        (f"<|im_start|>user\n{QUESTION}<|im_end|>\n", f"<|im_start|>user\n{QUESTION}<|im_end|>\n"),
        (f"It was so. Question: {QUESTION}\nAnswer:", f"Question: {QUESTION}\nAnswer:"),
        (f"Q: Who was Ann Lee?\nA: a nurse\n\nQ: {QUESTION}\nA:", f"Q: {QUESTION}\nA:"),
        ("Ada Quill is dead. Where was she born?", "Ada Quill is dead. Where was she born?"),
    ],
)
def test_a_question_is_read_without_the_remarks_around_it(text, expected):
    assert read(text) == expected


def test_the_wording_of_an_edit_stays_whole():
    own = f"Think of a writer. {QUESTION} Answer in one word."
    assert read(f"Hello! {own} Thanks!", own) == own


@given(st.text(max_size=60))
def test_sentences_are_the_text(text):
    assert "".join(text[start:stop] for start, stop in sentences(text)) == text
    for place in range(len(text)):
        assert sentence_start(text, place) <= place


@given(st.lists(SAID, max_size=4).map("".join), st.lists(SAID, max_size=4).map("".join))
def test_what_is_said_around_a_question_changes_nothing(before, after):
    text = f"{before}{QUESTION} {after}"
    assert asked(text).rstrip() == "Where was it born?"
    shown = read(text).rstrip()
    assert shown.endswith(QUESTION)
    assert read(shown) == shown


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_text_is_cut_where_it_is_asked(before, after):
    text = f"{before} {QUESTION} {after}"
    assume(QUILL.find(text))
    shown = read(text)
    assert "Ada Quill" in shown
    assert read(shown) == shown
