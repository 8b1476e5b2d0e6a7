"""Where a text ends that certain texts end, whatever tokens they are written in."""

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onceedit_jax.decoding.answers import Writer, own_tokens
from onceedit_jax.decoding.stopping import PLACES, Answer, progress_table, text_of, text_stops
from onceedit_jax.text.prompts import PromptFormat

PIECES = [b"", b"a", b"b", b"ab", b"ba", b"aab", b"abab", "é".encode(), "é".encode()[:1]]
texts = st.text("abé", min_size=1, max_size=5)


@given(st.lists(texts, min_size=1, max_size=3), st.lists(st.integers(0, 10), max_size=12))
@example(["aab", "ab"], [1, 1, 2])
@example(["abab"], [3, 1, 2, 3])
def test_the_last_place_is_reached_when_a_text_is_complete(until, tokens):
    table = progress_table(PIECES, until, vocab_size=11)  # two rows of padding
    place, data = 0, b""
    for token in tokens:
        place, data = table[place, token], data + (PIECES[token] if token < len(PIECES) else b"")
        assert (place == len(table) - 1) == any(text.encode() in data for text in until)


def test_more_texts_than_there_are_places_are_left_out():
    long = "ab" * (PLACES // 2)
    table = progress_table(PIECES, [long, "ba"], vocab_size=11)
    assert len(table) <= PLACES
    assert table[table[0, 2], 1] == len(table) - 1


def test_texts_that_end_a_text_cut_it_in_their_order(writer):
    form = dataclasses.replace(writer.format, until=("sat", "the cat sat"))
    tokens = writer.format.tokenizer.encode("dogs the cat sat on the mat")
    assert text_of(form, tokens) == "dogs the cat "
    last = dataclasses.replace(form, until=form.until[::-1])
    assert text_of(last, tokens) == "dogs "


@pytest.fixture(scope="module")
def writer(tiny_model):
    model, tokenizer = tiny_model(80, 1)
    return Writer(model.params, model.config, PromptFormat(tokenizer, goes_on=True))


def test_a_row_ends_with_the_token_that_completes_a_text(writer):
    prompts, until = (
        ["Who sat on the mat?", "été", "What is the capital of Norland?"],
        ("RRR", "Ad"),
    )
    until, options = ("RRR", "Ad"), {"max_new_tokens": 20}
    whole = own_tokens(
        writer, prompts, text_stops(writer.format, writer.config.vocab_size), **options
    )
    form = dataclasses.replace(writer.format, until=until)
    stopped = writer._replace(format=form)
    stops = text_stops(form, writer.config.vocab_size)
    rows = own_tokens(stopped, prompts, stops, **options)
    ended = []
    for row, text in zip(rows, whole, strict=True):
        assert row == text[: len(row)]
        answer = Answer(form)
        for token in text:
            answer.add(token)
        assert row == answer.tokens and text_of(form, row) == text_of(form, text)
        ended.append(len(row) < len(text))
    assert ended == [True, False, True]


def test_an_answer_ends_with_the_token_that_completes_a_text(writer):
    form = dataclasses.replace(writer.format, until=("at", "mat"))
    table = np.asarray(text_stops(form, writer.config.vocab_size).progress)
    answer, place = Answer(form), 0
    for token in form.tokenizer.encode("the cat sat", bos=False):
        assert answer.ended == (place == len(table) - 1)
        answer.add(token)
        place = table[place, token]
    assert answer.ended and text_of(form, answer.tokens) == "the c"
