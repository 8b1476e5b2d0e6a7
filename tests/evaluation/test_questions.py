"""A user's own questions: what a row may say, and the line that an error names."""

import json

import pytest

from onceedit_jax.data.records import EditRecord
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.questions import load_questions

RECORDS = [
    EditRecord("Who leads Norland?", "the Ada Quill", subject="Norland", aliases=("Nor",)),
    EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    EditRecord("Which river runs through Vinterby?", "the Ask", subject="Vinterby"),
]


def loaded(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_questions(path, RECORDS)


def test_an_edit_is_named_by_number_subject_alias_or_prompt(tmp_path):
    names = (1, "nor", "who leads norland", "Vinterby", "3")
    probes = loaded(
        tmp_path, *({"question": "Who?", "expects": "new", "edit": name} for name in names)
    )
    assert [probe.fact for probe in probes] == [0, 0, 0, 2, 2]
    assert [probe.new for probe in probes] == ["Ada Quill"] * 3 + ["Ask"] * 2
    assert {probe.column for probe in probes} == {"New answer"}


def test_each_expectation_and_a_column_of_ones_own(tmp_path):
    answer = {"question": "Who?", "expects": "answer", "edit": 1, "answer": ["Bo", "Beau"]}
    kept = {"question": "When?", "expects": "unchanged", "edit": 2, "column": "years"}
    first, second = loaded(tmp_path, answer, kept)
    assert (first.expects, first.answers, first.column) == (
        "answer",
        ("Bo", "Beau"),
        "Given answer",
    )
    assert (second.expects, second.answers, second.column) == ("unchanged", (), "years")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": ""}, "no question; there are question, expects, edit"),
        ({"expects": "old"}, "expects: found 'old'; expected new, unchanged, answer"),
        ({"edit": 4}, "edit: found 4; expected a number from 1 to 3"),
        ({"edit": 0}, "edit: found 0; expected"),
        ({"edit": True}, "edit: found True; expected"),
        ({"edit": None}, "edit: found None; expected"),
        ({"edit": "Sudland"}, "edit: found 'Sudland'; expected"),
        ({"edit": "Norland"}, "'Norland' is edits 1, 2; give the number of one"),
        ({"expects": "answer"}, "answer: found none; expected an answer where"),
        ({"answer": "Bo"}, "answer: found 'Bo'; expected no answer where expects is \"new\""),
        ({"anwser": "Bo"}, "unknown key 'anwser'; expected question, expects, edit"),
    ],
)
def test_a_bad_row_is_refused_with_its_line(tmp_path, change, message):
    good = {"question": "Who?", "expects": "new", "edit": 1}
    with pytest.raises(InputError) as error:
        loaded(tmp_path, good, {**good, **change})
    assert "questions.jsonl:2: " in str(error.value) and message in str(error.value)


def test_a_file_without_a_question_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no question"):
        loaded(tmp_path)


def test_there_is_nothing_to_ask_about_without_edits(tmp_path):
    with pytest.raises(InputError, match="no edit that answers"):
        load_questions(tmp_path / "questions.jsonl", [])
