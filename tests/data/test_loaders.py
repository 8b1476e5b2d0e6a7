"""Loaders: every format gives one record type, values arrive as written, errors name their line."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.records import (
    EditRecord,
    Pair,
    UnrelatedRow,
    contradicting,
    demo_path,
    duplicates,
    neutral_rows,
    without_nq,
)
from onceedit_jax.errors import InputError

EDIT = {"prompt": "Who leads Norland?", "target": "Ada Quill"}


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


def raw(folder: Path, name: str) -> list:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


# Whole data sets, against their own JSON


@pytest.mark.parametrize(
    ("name", "format", "keys"),
    [
        ("zsre_eval", "zsre", ("src", "alt", "rephrase", "loc", "loc_ans", "subject")),
        ("zsre_train", "zsre", ("src", "alt", "rephrase", "loc", "loc_ans", "subject")),
        (
            "counterfact_edit",
            "counterfact",
            (
                "prompt",
                "target_new",
                "rephrase_prompt",
                "locality_prompt",
                "locality_ground_truth",
                "subject",
            ),
        ),
    ],
)
def test_a_record_holds_exactly_what_the_file_holds(data_sets, name, format, keys):
    rows = raw(data_sets, name)
    records = load_records(data_sets / f"{name}.json")
    assert records == load_records(data_sets / f"{name}.json", format)
    found = [
        (r.prompt, r.target, r.rephrase, r.locality[0].prompt, r.locality[0].target, r.subject)
        for r in records
    ]
    assert found == [tuple(row[key] for key in keys) for row in rows]
    assert [r.index for r in records] == list(range(len(rows)))


def test_zsre_takes_the_edit_target_from_alt_and_portability_from_its_question(shared):
    (record,) = load_records(shared / "data" / "zsre_eval.json", limit=1)
    assert record == EditRecord(
        prompt="Which family does Ramalinaceae belong to?",
        target="Lamiinae",
        rephrase="What family are Ramalinaceae?",
        locality=(Pair("nq question: types of skiing in the winter olympics 2018", "Downhill"),),
        portability=(
            Pair(
                "Which family does Ramalinaceae now belong to after the reclassification?",
                "Cerambycidae",
            ),
        ),
        subject="Ramalinaceae",
        true_answers=("Lecanorales",),
    )
    assert record.source.endswith("zsre_eval.json:2")


def test_mquake_gives_four_edits_a_case_and_asks_the_hops_once(data_sets):
    cases = raw(data_sets, "mquake_hard")
    records = load_records(data_sets / "mquake_hard.json")
    assert len(records) == 4 * len(cases)
    assert [len(r.portability) for r in records] == [3, 0, 0, 0] * len(cases)
    edit = cases[0]["requested_rewrite"][0]
    assert records[0].prompt == edit["prompt"].replace("{}", edit["subject"])
    assert records[0].portability[0].target == cases[0]["new_answer"]
    assert not any("{}" in r.prompt for r in records)


def test_limit_keeps_or_leaves_a_whole_mquake_case(data_sets):
    path = data_sets / "mquake_hard.json"
    assert load_records(path, limit=2) == load_records(path)[:8]


def test_mquake_prompts_may_hold_other_braces(tmp_path):
    edit = {
        "prompt": "In C, {0} and {x} mean {}",
        "subject": "braces {}",
        "target_new": {"str": "sets"},
        "target_true": {"str": "blocks"},
    }
    case = {"requested_rewrite": [edit], "questions": ["What?"], "new_answer": "sets"}
    (record,) = load_records(write(tmp_path, "m.json", json.dumps([case])))
    assert record.prompt == "In C, {0} and {x} mean braces {}"


def test_qaedit_is_read_as_own_edits_with_its_names_for_locality(data_sets):
    records = load_records(data_sets / "qaedit.json")
    assert len(records) == len(raw(data_sets, "qaedit"))
    assert all(len(r.locality) == 5 for r in records)


def test_contradicting_and_repeated_edits_of_the_shared_files(shared):
    rows = raw(shared / "data", "zsre_eval")
    groups: dict = {}
    for row in rows:
        key = (row["subject"], tuple(sorted(row["answers"])))
        groups.setdefault(key, []).append(row["alt"])
    # 286 by raw text; three of them differ in one letter's case only and do not contradict.
    assert sum(len(alts) for alts in groups.values() if len(set(alts)) > 1) == 286
    records = load_records(shared / "data" / "zsre_eval.json")
    assert len(contradicting(records)) == 283
    assert len(duplicates(records)) == 0
    assert len(duplicates(load_records(shared / "data" / "mquake_hard.json"))) == 709


# Own edits


def test_jsonl_and_csv_of_the_same_edit_are_the_same_record(tmp_path):
    row = {
        **EDIT,
        "rephrase": "Norland is led by whom?",
        "subject": "Norland",
        "locality": [{"prompt": "Who leads Sudland?", "target": "Bo"}],
        "portability": [{"prompt": "Where was Norland's leader born?", "target": "Vinterby"}],
    }
    cells = {
        **{key: row[key] for key in ("prompt", "target", "rephrase", "subject")},
        "locality_prompt": "Who leads Sudland?",
        "locality_target": "Bo",
        "portability_prompt": "Where was Norland's leader born?",
        "portability_target": "Vinterby",
    }
    text = io.StringIO()
    writer = csv.DictWriter(text, list(cells))
    writer.writeheader()
    writer.writerow(cells)
    from_csv = load_records(write(tmp_path, "e.csv", text.getvalue()))
    from_jsonl = load_records(write(tmp_path, "e.jsonl", json.dumps(row)))
    assert from_csv == from_jsonl
    assert from_csv[0].locality == (Pair("Who leads Sudland?", "Bo"),)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
def test_any_text_survives_jsonl(tmp_path_factory, pairs):
    text = "\n".join(json.dumps({"prompt": p, "target": t}, ensure_ascii=False) for p, t in pairs)
    path = write(tmp_path_factory.mktemp("r"), "e.jsonl", text)
    assert [(r.prompt, r.target) for r in load_records(path)] == pairs


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(*[TEXT.filter(lambda t: not set(t) & set("\r\0"))] * 2), min_size=1, max_size=4
    )
)
def test_any_text_survives_csv(tmp_path_factory, pairs):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("prompt", "target"), *pairs])
    path = write(tmp_path_factory.mktemp("r"), "e.csv", text.getvalue())
    assert [(r.prompt, r.target) for r in load_records(path)] == pairs


@pytest.mark.parametrize("answer", ["007", "2019-05-03", "1e3", "true", "null", "NA", "1,5"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_answers_that_look_like_numbers_or_dates_stay_text(tmp_path, suffix, answer):
    if suffix == "csv":
        text = f'prompt,target\nWhat is it?,"{answer}"\n'
    else:
        text = json.dumps({"prompt": "What is it?", "target": answer})
    assert load_records(write(tmp_path, f"e.{suffix}", text))[0].target == answer


def test_byte_order_mark_and_blank_lines_are_harmless(tmp_path):
    jsonl = write(tmp_path, "e.jsonl", f"\ufeff\n{json.dumps(EDIT)}\r\n\n  \n{json.dumps(EDIT)}\n")
    assert [r.source[-2:] for r in load_records(jsonl)] == [":2", ":5"]
    table = write(tmp_path, "e.csv", '\ufeffprompt,target\n\n"two\nlines",x\na,y\n')
    assert [(r.prompt, r.source[-2:]) for r in load_records(table)] == [
        ("two\nlines", ":3"),
        ("a", ":5"),
    ]


# Errors


@pytest.mark.parametrize(
    ("name", "text", "place", "says"),
    [
        ("e.jsonl", '{"prompt": "a", "target": "b"}\n\n{"prompt": "a"}', ":3:", "no target"),
        ("e.jsonl", '{"prompt": "a", "target": true}', ":1:", "target is true; expected text"),
        ("e.jsonl", '{"prompt": "a", "target": NaN}', ":1:", "target is nan"),
        ("e.jsonl", '{"prompt": "a", "target": 1e999}', ":1:", "target is inf"),
        ("e.jsonl", '{"prompt": "a", "target": ' + "9" * 400 + "}", ":1:", "target is 99"),
        ("e.jsonl", '{"prompt": "a", "target": "b", "target": "c"}', ":1:", "'target' is there"),
        ("e.json", '[{"prompt": "a", "target": "b", "target": "c"}]', ":1:", "'target' is there"),
        ("e.jsonl", '{"prompt": "a", "target": {"b": 1}}', ":1:", "target is an object"),
        ("e.jsonl", '{"prompt": "a", "target": [["b", ["c"]]]}', ":1:", "target[0] is a list"),
        ("e.jsonl", '{"prompt": "a", "target": ["", null]}', ":1:", "target is a list"),
        ("e.jsonl", '{"prompt": "a", "target": "  "}', ":1:", "expected text"),
        ("e.jsonl", '{"prompt": "a", "target": "b"}\n{"prompt"', ":2:", "not JSON"),
        ("e.jsonl", "[1]", ":1:", "expected an object"),
        ("e.jsonl", '{"question": "a"}', ":1:", "no known format"),
        ("e.jsonl", '{"prompt": "a", "target": "\\ud83d"}', ":1:", "half a character"),
        (
            "e.jsonl",
            '{"prompt": "a", "target": "b", "locality": [{"prompt": "c"}]}',
            ":1, locality[0]:",
            "no target",
        ),
        ("e.jsonl", '{"prompt": "a", "target": "b", "locality": "c"}', ":1:", "expected a list"),
        ("e.json", '[\n{"prompt": "a", "target": "b"},\n{"prompt": "c"}\n]', ":3:", "no target"),
        ("e.json", '[\n{"prompt": "a", "target": "b"},\n\n{"prompt": }\n]', ":4:", "not JSON"),
        ("e.json", '[\n{"prompt": "a", "target": "b"},\n', ":3:", "not JSON"),
        ("e.json", '[\n{"prompt": "a", "target": "b"}\n', ":3:", "complete"),
        ("e.json", '[{"prompt": "a", "target": "b"}]\nx', ":2:", "after the list"),
        ("e.json", '{"prompt": "a", "target": "b"}', ":1:", "expected a JSON list"),
        ("e.json", "[]", "e.json:", "no records"),
        ("e.json", "", ":1:", "expected a JSON list"),
        ("e.csv", "prompt,target\na,b\nc\n", ":3:", "1 cells"),
        ("e.csv", "prompt,target\na,b,c\n", ":2:", "3 cells"),
        ("e.csv", "prompt,target\na,\n", ":2:", "no target"),
        ("e.csv", "prompt,prompt\na,b\n", ":1:", "repeated"),
        ("e.csv", 'prompt,target\na,"b\n', ":2:", "not CSV"),
        ("e.csv", "prompt,target,locality_prompt\na,b,c\n", ":2:", "no locality_target"),
        ("e.txt", "a", "e.txt:", "expected a file of type"),
    ],
)
def test_an_error_names_file_and_line_and_what_is_wrong(tmp_path, name, text, place, says):
    path = write(tmp_path, name, text)
    with pytest.raises(InputError) as caught:
        load_records(path)
    assert (place if place.startswith(name) else f"{name}{place}") in str(caught.value)
    assert says in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused_with_their_line(tmp_path):
    path = tmp_path / "e.jsonl"
    path.write_bytes(json.dumps(EDIT).encode() + b'\n{"prompt": "\xff"}')
    with pytest.raises(InputError, match=r"e\.jsonl:2: not UTF-8"):
        load_records(path)


def test_zsre_errors_name_the_line_of_a_list_item(data_sets, tmp_path):
    lines = (data_sets / "zsre_eval.json").read_text(encoding="utf-8").splitlines()[:9]
    lines[6] = lines[6].replace('"alt"', '"alternative"')
    path = write(tmp_path, "z.json", "\n".join(lines).rstrip(",") + "\n]")
    with pytest.raises(InputError, match=r"z\.json:7: no alt"):
        load_records(path)


@pytest.mark.parametrize("source", ["missing.json", "./folder/set", "a/b/c", "no such name"])
def test_what_is_neither_file_nor_hub_name_is_refused_without_asking_the_hub(source):
    with pytest.raises(InputError, match="no such file"):
        load_records(source)


def test_unknown_format_and_limits_below_one_are_refused(tmp_path):
    path = write(tmp_path, "e.jsonl", json.dumps(EDIT))
    for load in (load_records, load_unrelated):
        with pytest.raises(InputError, match="expected auto, zsre"):
            load(path, "zsrre")
        with pytest.raises(InputError, match="at least 1"):
            load(path, limit=0)


# Hub data sets, with `datasets` answering from memory


@pytest.mark.parametrize("name", ["zsre", "owner/zsre-v1.5"])
def test_hub_names_are_read_through_datasets(monkeypatch, name):
    import datasets

    rows = datasets.Dataset.from_list([{"src": "Who?", "alt": "Ada", "rephrase": None}])

    def load(asked, split=None):
        assert asked == name
        whole = datasets.DatasetDict(train=rows, test=rows)
        return whole[split] if split else whole

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert load_records(f"{name}:test")[0].target == "Ada"
    with pytest.raises(InputError, match=f"splits train, test; choose one, as in {name}:train"):
        load_records(name)


def test_a_hub_value_that_was_turned_into_a_date_is_refused(monkeypatch):
    import datetime

    import datasets

    day = datetime.datetime(2019, 5, 3)
    rows = datasets.Dataset.from_list([{"prompt": "When?", "target": day}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split=None: rows)
    with pytest.raises(InputError, match=r"days, row 1: target is .*expected text"):
        load_records("days")


def test_a_hub_failure_is_one_line(monkeypatch):
    import datasets

    def fail(name, split=None):
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"\(offline\)\. Check"):
        load_records("owner/zsre")


# Unrelated rows


def test_unrelated_strings_texts_prompts_and_locality(data_sets, tmp_path):
    strings = load_unrelated(data_sets / "zsre_unrelated_nq.json")
    assert [row.prompt for row in strings] == raw(data_sets, "zsre_unrelated_nq")
    assert all(row.answer is None for row in strings)
    texts = load_unrelated(data_sets / "me_ppl.json")
    assert [row.prompt for row in texts] == [row["Text"] for row in raw(data_sets, "me_ppl")]
    assert all(row.answer is None for row in texts)
    first = raw(data_sets, "zsre_train")[0]
    assert load_unrelated(data_sets / "zsre_train.json", limit=1) == [
        UnrelatedRow(first["loc"], first["loc_ans"])
    ]
    mixed = '["one", {"prompt": "two"}, {"prompt": "three", "answer": "3"}]'
    assert load_unrelated(write(tmp_path, "u.json", mixed)) == [
        UnrelatedRow("one"),
        UnrelatedRow("two"),
        UnrelatedRow("three", "3"),
    ]


def test_edits_themselves_are_never_unrelated_rows(tmp_path):
    path = write(tmp_path, "e.jsonl", json.dumps(EDIT))
    with pytest.raises(InputError, match="no unrelated rows"):
        load_unrelated(path)


def test_unrelated_errors_name_the_line(tmp_path):
    path = write(tmp_path, "u.json", '[\n"one",\n"  "\n]')
    with pytest.raises(InputError, match=r"u\.json:3: text is '  '"):
        load_unrelated(path)


def test_without_nq_takes_the_mark_off_locality_and_rows_only():
    record = EditRecord("nq question: a", "b", locality=(Pair("nq question: c", "d"),))
    assert without_nq(record).locality == (Pair("c", "d"),)
    assert without_nq(record).prompt == "nq question: a"
    assert without_nq(UnrelatedRow("NQ question:  e f")) == UnrelatedRow("e f")


# Contradictions


def test_edits_contradict_by_prompt_by_fact_and_by_rephrase():
    base = EditRecord("Who leads Norland?", "Ada", subject="Norland", true_answers=("Eve",))
    by_prompt = EditRecord("who leads  norland", "Bo")
    by_fact = EditRecord("Norland's head?", "Cy", subject="norland", true_answers=("eve.",))
    by_rephrase = EditRecord("Leader of Norland?", "Di", rephrase="Who leads Norland?")
    for other in (by_prompt, by_fact, by_rephrase):
        assert contradicting([base, EditRecord("x", "y"), other]) == {0, 2}
    assert contradicting([base, EditRecord("Who leads Norland?", " ada.")]) == frozenset()
    assert duplicates([base, EditRecord("Who leads Norland?", " ada.")]) == {1}


def test_files_of_the_package_are_found_by_name():
    assert demo_path("demo_edits.jsonl").is_file()
    with pytest.raises(InputError, match=r"there are demo_edits\.jsonl"):
        demo_path("other.json")


def test_the_neutral_texts_are_unrelated_rows_of_the_package():
    rows = neutral_rows()
    assert len(rows) >= 100
    assert len({row.prompt for row in rows}) == len(rows)
    assert all(row.prompt.strip() and row.source for row in rows)
