"""Leaks: no unrelated row may ask what is evaluated."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.data.leakage import (
    check_leaks,
    drop_leaks,
    evaluated_texts,
    without_evaluated,
)
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.errors import InputError

RECORD = EditRecord(
    prompt="Who leads Norland?",
    target="Ada Quill",
    rephrase="Norland is led by whom?",
    locality=(Pair("nq question: who leads the republic of sudland", "Bo Ek"),),
    portability=(Pair("Where was Norland's leader born?", "Vinterby"),),
)


@pytest.mark.parametrize(
    "row",
    [
        UnrelatedRow("Who leads Norland?"),
        UnrelatedRow("  WHO leads\tNorland ", "Eve"),
        UnrelatedRow("norland is led by whom"),
        UnrelatedRow("who leads the republic of Sudland?"),
        UnrelatedRow("nq question: who leads the republic of sudland Bo Ek"),
        UnrelatedRow("who leads the republic of sudland? since 1990"),
        UnrelatedRow("Where was Norland's leader born?", "elsewhere"),
        UnrelatedRow("Norland is led by whom? Ada", "Quill"),
        UnrelatedRow("Asked today:", "Who leads Norland?"),
    ],
)
def test_a_row_that_asks_what_is_evaluated_leaks(row):
    assert drop_leaks([row], [RECORD]) == ([], [row])
    with pytest.raises(InputError, match="1 of 1 unrelated rows are also evaluated"):
        check_leaks([row], [RECORD])


@pytest.mark.parametrize(
    "row",
    [
        UnrelatedRow("Who leads Sudland?", "Ada Quill"),  # a shared answer says nothing
        UnrelatedRow("Who leads Norlandia?"),
        UnrelatedRow("who leads the republic of sudland today", "Cy"),  # its prompt is known whole
        UnrelatedRow("who leads"),
    ],
)
def test_a_row_that_only_resembles_an_evaluated_one_stays(row):
    assert drop_leaks([row], [RECORD]) == ([row], [])
    check_leaks([row], [RECORD])


def test_what_is_left_after_dropping_passes_the_check_in_its_order():
    rows = [UnrelatedRow(text) for text in ("one thing", "Who leads Norland?", "another thing")]
    clean, leaked = drop_leaks(rows, [RECORD])
    assert (clean, leaked) == ([rows[0], rows[2]], [rows[1]])
    check_leaks(clean, [RECORD])


def test_counterfact_training_rows_leak_into_its_edits(data_sets):
    evaluated = load_records(data_sets / "counterfact_edit.json")
    rows = load_unrelated(data_sets / "counterfact_train.json")
    asked = {pair.prompt for record in evaluated for pair in record.locality}
    word_for_word = [row for row in rows if row.prompt in asked]
    clean, leaked = drop_leaks(rows, evaluated)
    assert word_for_word and set(word_for_word) <= set(leaked)
    with pytest.raises(InputError, match=f"{len(leaked)} of {len(rows)}"):
        check_leaks(rows, evaluated)
    check_leaks(clean, evaluated)
    if len(rows) == 2000:  # the published file: 17 more are edit prompts of the evaluated one
        assert (len(word_for_word), len(leaked)) == (162, 179)


@pytest.mark.parametrize("name", ["zsre_unrelated_nq", "zsre_train", "me_ppl"])
def test_zsre_and_its_unrelated_sets_share_nothing(data_sets, name):
    evaluated = load_records(data_sets / "zsre_eval.json")
    check_leaks(load_unrelated(data_sets / f"{name}.json"), evaluated)


WORDS = st.lists(st.sampled_from(["who", "leads", "it?", "?", "now.", "it"]), max_size=8).map(
    " ".join
)


@given(WORDS, st.lists(WORDS, max_size=4))
def test_what_begins_with_a_question_leaks(text, questions):
    """The plain definition, which is quadratic in a text's words."""
    words, asked = normalise(text).split(" "), {normalise(q) for q in questions} - {""}
    texts = asked | {normalise(f"{question} x") for question in questions if question}
    begins = any(normalise(" ".join(words[:end])) in asked for end in range(3, len(words)))
    leaks = begins or normalise(text) in texts
    records = [EditRecord(prompt=question, target="x") for question in questions]
    assert bool(drop_leaks([UnrelatedRow(text)], records)[1]) == leaks


@given(WORDS, st.lists(WORDS, max_size=4))
def test_what_ends_in_a_question_is_not_trained_on(text, questions):
    plain = normalise(text)
    words, asked = plain.split(" "), {normalise(q) for q in questions} - {""}
    ends = {" ".join(words[start:]) for start in range(max(1, len(words) - 1))}
    pieces = (question.split(" ") for question in asked)
    parts = {" ".join(p[start:]) for p in pieces for start in range(max(1, len(p) - 1))}
    records = [EditRecord(prompt="p", target="t", rephrase=question) for question in questions]
    kept = without_evaluated([text], evaluated_texts(records))
    assert kept == ([] if plain in parts or ends & asked else [text])


def test_the_check_is_linear_in_a_text():
    """A hundred times the words take far less than ten thousand times as long."""
    long = UnrelatedRow("word " * 300_000)
    began = time.perf_counter()
    assert drop_leaks([long], [RECORD])[0] == [long]
    assert without_evaluated([long.prompt], evaluated_texts([RECORD])) == [long.prompt]
    assert time.perf_counter() - began < 20
