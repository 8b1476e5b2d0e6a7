"""Public data sets' formats, each in a row of our own: what is read, by kind, and what is named."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.data.formats import rippleedits
from onceedit_jax.data.leakage import digest, drop_leaks, trained_on
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow, contradicting
from onceedit_jax.data.rows import Row
from onceedit_jax.errors import InputError

KNOWEDIT = {
    "subject": "Norland",
    "prompt": "The capital of Norland is",
    "target_new": "Vinterby",
    "ground_truth": [["Oldport", "Old Port"]],
    "rephrase_prompt": "Norland's capital city is",
    "portability": {
        "Logical_Generalization": [
            {"prompt": "Vinterby is the capital of", "ground_truth": [["Norland", "the North"]]}
        ],
        "Reasoning": [
            {"prompt": "The mayor of Norland's capital is", "ground_truth": ["Bo Ek"]},
            {"prompt": "Its river is", "ground_truth": ""},
        ],
        "Subject_Aliasing": [{"prompt": "The North's capital is", "ground_truth": "Vinterby"}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "Norland's money is", "ground_truth": [["krona"]]}],
        "Forgetfulness": [{"prompt": "Norland's largest city is", "ground_truth": ["Oldport"]}],
    },
}
ROME = {
    "case_id": 3,
    "pararel_idx": 7,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": "Norse", "id": "Q1"},
        "target_true": {"str": "Ask", "id": "Q2"},
        "subject": "Ada Quill",
    },
    "paraphrase_prompts": ["It rains. Ada Quill speaks", "Ada Quill was raised in"],
    "neighborhood_prompts": ["Bo Ek speaks", "The mother tongue of Cy is"],
    "attribute_prompts": ["Di speaks"],
    "generation_prompts": ["Ada Quill lives in"],
}
WIKIBIGEDIT = {
    "tag": "new",
    "subject": "Norland",
    "update": "What is Norland's capital?",
    "rephrase": "Which city is the capital of Norland?",
    "ans": ["Vinterby", "City of Vinterby"],
    "rel": "capital",
    "loc": "What is Sudland's capital?",
    "loc_ans": "Sorvik",
    "personas": "Arr, what be Norland's capital?",
    "mhop": "Who is the mayor of Norland's capital?",
    "mhop_ans": "Bo Ek",
}


def query(prompt, *answers, ids=(), **more):
    named = [{"value": value, "aliases": list(rest)} for value, *rest in answers]
    return {"prompt": prompt, "answers": named, "target_ids": list(ids), **more}


def lists_of_tests(*queries):
    return [
        {"test_queries": [each], "test_condition": "OR", "condition_queries": []}
        for each in queries
    ]


RIPPLES = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the mother of Ada of Norland is Eve is Here.",
        "subject_id": "Q1",
        "relation": "MOTHER",
        "target_id": "Q5",
        "original_fact": {
            "prompt": "The name of the mother of Ada of Norland is Di.",
            "subject_id": "Q1",
            "relation": "MOTHER",
            "target_id": "Q6",
        },
    },
    "Relation_Specificity": lists_of_tests(
        query(
            "The name of the father of Ada of Norland is",
            ["Bo Ek", "Bo", "B"],
            query_type="regular",
        )
    ),
    "Logical_Generalization": lists_of_tests(
        query("The names of the siblings of Ada of Norland are", ["Cy"], ["Flo", "Florence"])
    ),
    "Subject_Aliasing": lists_of_tests(
        query("The name of the mother of Ada Quill is", ["Eve is Here", "Eve"], ids=["Q5"])
    ),
    "Compositionality_I": lists_of_tests(
        query(
            "The name of the country of the mother of Ada of Norland is",
            ["Sorvik", "SV"],
            ids=["Q5"],
            query_type="two_hop",
            second_hop_target_ids=["Q9"],
        )
    ),
    "Compositionality_II": lists_of_tests(query("The name of nobody is")),
    "Forgetfulness": lists_of_tests(query("The name of a child of Di is", ["Gil"])),
}


def loaded(tmp_path, *rows, name="e.json"):
    """The records of rows, and what is warned of."""
    path, warned = tmp_path / name, []
    path.write_text(json.dumps(rows), encoding="utf-8")
    return load_records(path, on_warning=warned.append), warned


def kinds(pairs):
    return [(pair.kind, pair.prompt, pair.target, pair.accepted) for pair in pairs]


def test_knowedits_kinds_are_kept_and_its_answers_are_lists(tmp_path):
    (record,), warned = loaded(tmp_path, KNOWEDIT)
    assert kinds(record.portability) == [
        ("Logical_Generalization", "Vinterby is the capital of", "Norland", ("the North",)),
        ("Reasoning", "The mayor of Norland's capital is", "Bo Ek", ()),
        ("Subject_Aliasing", "The North's capital is", "Vinterby", ()),
    ]
    assert [pair.kind for pair in record.locality] == ["Relation_Specificity", "Forgetfulness"]
    assert record.true_answers == ("Oldport", "Old Port")
    assert record.rephrase == "Norland's capital city is"
    assert not warned


def test_knowedits_other_spellings_and_easyedits_requests(tmp_path):
    recent = {**KNOWEDIT, "rephrase": KNOWEDIT["rephrase_prompt"]}
    del recent["rephrase_prompt"]
    (first,), _ = loaded(tmp_path, KNOWEDIT)
    (second,), warned = loaded(tmp_path, recent)
    assert first == second and not warned
    bio = {"concept": "Ada", "text": "A page about Ada.", "labels": "One.\nTwo.", "locality": {}}
    (record,), warned = loaded(tmp_path, bio)
    assert (record.prompt, record.target, record.subject) == (
        "A page about Ada.",
        "One.\nTwo.",
        "Ada",
    )
    request = {
        "prompt": "a",
        "target_new": "b",
        "locality": {"neighborhood": {"prompt": ["c", "d"], "ground_truth": ["e", ["f", "g"]]}},
        "portability": {"one_hop": {"prompt": "h", "ground_truth": "i"}},
    }
    (record,), warned = loaded(tmp_path, request)
    assert kinds(record.locality) == [
        ("neighborhood", "c", "e", ()),
        ("neighborhood", "d", "f", ("g",)),
    ]
    assert kinds(record.portability) == [("one_hop", "h", "i", ())]
    assert not warned
    request["locality"]["neighborhood"]["ground_truth"] = ["e"]
    with pytest.raises(InputError, match="neighborhood: prompt is a list; expected ground_truth"):
        loaded(tmp_path, request)


def test_romes_counterfact(tmp_path):
    (record,), warned = loaded(tmp_path, ROME)
    assert record == EditRecord(
        "The mother tongue of Ada Quill is",
        "Norse",
        rephrase="It rains. Ada Quill speaks",
        more_rephrases=("Ada Quill was raised in",),
        locality=(Pair("Bo Ek speaks", "Ask"), Pair("The mother tongue of Cy is", "Ask")),
        subject="Ada Quill",
        true_answers=("Ask",),
    )
    assert not warned


def test_wikibigedit(tmp_path):
    (record, without), warned = loaded(tmp_path, WIKIBIGEDIT, {**WIKIBIGEDIT, "mhop": None})
    assert (record.prompt, record.target, record.accepted) == (
        "What is Norland's capital?",
        "Vinterby",
        ("City of Vinterby",),
    )
    assert kinds(record.portability) == [
        ("mhop", "Who is the mayor of Norland's capital?", "Bo Ek", ()),
        ("personas", "Arr, what be Norland's capital?", "Vinterby", ("City of Vinterby",)),
    ]
    assert [pair.kind for pair in without.portability] == ["personas"]
    assert not warned


def test_rippleedits_statements_are_taken_apart(tmp_path):
    (record,), warned = loaded(tmp_path, RIPPLES)
    assert (record.prompt, record.target, record.accepted) == (
        "The name of the mother of Ada of Norland is",
        "Eve is Here",
        ("Eve",),
    )
    assert record.subject == "Ada of Norland"
    assert record.true_answers == ("Di",)
    assert kinds(record.locality) == [
        ("Relation_Specificity", "The name of the father of Ada of Norland is", "Bo Ek", ("Bo",)),
        ("Forgetfulness", "The name of a child of Di is", "Gil", ()),
    ]
    assert [(pair.kind, pair.target, pair.accepted) for pair in record.portability] == [
        ("Compositionality_I", "Sorvik", ("SV",)),
        ("Subject_Aliasing", "Eve is Here", ("Eve",)),
    ]
    assert not warned


def test_the_answer_after_two_hops_is_none_of_the_edit(tmp_path):
    (record,), _ = loaded(tmp_path, {**RIPPLES, "Subject_Aliasing": []})
    assert not record.accepted


def test_a_second_key_of_one_meaning_is_named(tmp_path):
    row = {"prompt": "The capital of Norland is", "target_new": "Ask", "question": "Which?"}
    (record,), warned = loaded(tmp_path, row)
    assert record.prompt == row["prompt"]
    assert len(warned) == 1 and "question" in warned[0]


def test_an_accepted_answer_is_no_contradiction_but_a_leak(tmp_path):
    rows = [
        {"prompt": "Where?", "target": ["USA", "United States"]},
        {"prompt": "Where?", "target": "United States"},
        {"prompt": "Who?", "target": "Ada", "accepted": ["A. Quill"]},
        {"prompt": "Who?", "target": "Bo"},
    ]
    records, _ = loaded(tmp_path, *rows)
    assert contradicting(records) == {2, 3}
    leaking = UnrelatedRow("Who? A. Quill")
    assert drop_leaks([leaking, UnrelatedRow("Why?")], records) == (
        [UnrelatedRow("Why?")],
        [leaking],
    )


WORDS = st.lists(st.sampled_from(["Ada", "is", "are", "of", "Norland"]), min_size=1, max_size=5)


@given(subject=WORDS, new=WORDS, old=WORDS)
def test_a_statement_is_cut_where_the_object_has_a_name(subject, new, old):
    subject, new, old = (" ".join(words) for words in (subject, new, old))
    prompt = f"The mother of {subject} is"
    edit = {"prompt": f"{prompt} {new}.", "target_id": "Q1"}
    edit["original_fact"] = {"prompt": f"{prompt} {old}."}
    tests = lists_of_tests(query("Who?", [new], ids=["Q1"]))
    (record,) = rippleedits(Row("x:1", {"edit": edit, "Subject_Aliasing": tests}))
    assert (record.prompt, record.target) == (prompt, new)


def test_mquakes_aliases_are_accepted_for_the_hops_and_for_the_edits(tmp_path):
    case = {
        "requested_rewrite": [
            {
                "prompt": "{} is a citizen of",
                "subject": "Bo Ek",
                "question": "Of what country is Bo Ek?",
                "target_new": {"str": "United States of America"},
                "target_true": {"str": "Norland"},
            }
        ],
        "questions": ["What is the capital of Bo Ek's country?"],
        "new_answer": "Washington, D.C.",
        "new_answer_alias": ["Washington", "DC"],
        "new_single_hops": [
            {
                "question": "Of what country is Bo Ek?",
                "answer": "United States of America",
                "answer_alias": ["USA"],
            }
        ],
    }
    (record,), warned = loaded(tmp_path, case)
    assert record.accepted == ("USA",)
    assert record.portability[0].accepted == ("Washington", "DC")
    assert not warned


def test_messages_and_alpaca_rows(tmp_path):
    turns = [{"role": "user", "content": "Who leads?"}, {"role": "assistant", "content": "Ada"}]
    assert loaded(tmp_path, {"messages": turns}) == ([EditRecord("Who leads?", "Ada")], [])
    alpaca = {"instruction": "Who leads?", "input": "", "output": "Ada"}
    assert loaded(tmp_path, alpaca) == ([EditRecord("Who leads?", "Ada")], [])
    (record,), _ = loaded(tmp_path, {**alpaca, "input": "Norland"})
    assert record.prompt == "Who leads?\nNorland"


@pytest.mark.parametrize(
    "roles", [["user"], ["system", "user", "assistant"], ["user", "assistant"] * 2]
)
def test_conversations_that_are_no_question_with_its_answer_are_refused(tmp_path, roles):
    turns = [{"role": role, "content": "x"} for role in roles]
    with pytest.raises(InputError, match="expected user, assistant"):
        loaded(tmp_path, {"messages": turns})


def test_lists_of_answers_and_of_rephrases_of_ones_own(tmp_path):
    row = {
        "prompt": "Capital?",
        "target": ["Vinterby", "City of Vinterby"],
        "accepted": "Winterby",
        "rephrase": ["Which?", "Name it."],
        "portability": [{"prompt": "Mayor?", "target": ["Bo", "Bo Ek"], "kind": "hop"}],
        "locality": {"near": [{"prompt": "Sudland?", "target": "Sorvik"}]},
    }
    (record,), warned = loaded(tmp_path, row)
    assert (record.target, record.accepted) == ("Vinterby", ("City of Vinterby", "Winterby"))
    assert record.rephrases == ("Which?", "Name it.")
    assert kinds(record.portability) == [("hop", "Mayor?", "Bo", ("Bo Ek",))]
    assert kinds(record.locality) == [("near", "Sudland?", "Sorvik", ())]
    assert not warned


@pytest.mark.parametrize(
    ("written", "read"),
    [("1867", "1867"), ("-4", "-4"), ("2.50", "2.50"), ("1e3", "1e3"), ('"007"', "007")],
)
def test_numbers_are_read_as_they_are_written(tmp_path, written, read):
    path = tmp_path / "e.jsonl"
    path.write_text(f'{{"prompt": "How many?", "target": {written}}}')
    assert load_records(path)[0].target == read


@given(st.integers(-(2**52), 2**52))
def test_a_whole_number_is_the_same_text_from_every_table(number):
    assert (
        Row("x", {"a": number}).text("a") == str(number) == Row("x", {"a": float(number)}).text("a")
    )


def test_parquet_gives_the_records_of_the_same_json(tmp_path):
    import pyarrow
    from pyarrow import parquet

    for row in (KNOWEDIT, ROME, WIKIBIGEDIT, RIPPLES, {"prompt": "When?", "target": 1867}):
        if row is KNOWEDIT:  # a column of parquet has one type
            row = {**row, "portability": {}, "ground_truth": ["Oldport"]}
            row["locality"] = {"Forgetfulness": KNOWEDIT["locality"]["Forgetfulness"]}
        row = {key: value for key, value in row.items() if value != {}}
        parquet.write_table(pyarrow.Table.from_pylist([row, row]), tmp_path / "e.parquet")
        warned = []
        records = load_records(tmp_path / "e.parquet", on_warning=warned.append)
        assert records == loaded(tmp_path, row, row)[0]
        assert records[1].source.startswith(f"{tmp_path / 'e.parquet'}, row 2")
        assert not warned
    (tmp_path / "e.parquet").write_bytes((tmp_path / "e.parquet").read_bytes()[:-40])
    with pytest.raises(InputError, match=r"e\.parquet: cannot be read as parquet"):
        load_records(tmp_path / "e.parquet")


def test_what_parquet_holds_beside_texts_and_numbers_is_named(tmp_path):
    import pyarrow
    from pyarrow import parquet

    columns = [
        pyarrow.array([{"a": {"b": [1]}}]),
        pyarrow.array([b"\xff"]),
        pyarrow.array([2**62], pyarrow.timestamp("ms")),
        pyarrow.array([2**62], pyarrow.timestamp("us", "Nowhere/City")),
        pyarrow.array([2**62], pyarrow.duration("us")),
        pyarrow.array([2**31 - 1], pyarrow.date32()),
        pyarrow.array([[("key", "value")]], pyarrow.map_(pyarrow.string(), pyarrow.string())),
    ]
    for column in columns:
        table = pyarrow.table({"prompt": ["When?"], "target": column})
        parquet.write_table(table, tmp_path / "e.parquet")
        with pytest.raises(InputError, match=r"e\.parquet") as caught:
            load_records(tmp_path / "e.parquet")
        assert "\n" not in str(caught.value)


def test_keys_that_are_not_understood_are_named_once_with_their_rows(tmp_path):
    odd = {"prompt": "a", "target": "b", "rephrases": "c", "Subjet": "d", "empty": "", "qqq": 0}
    nested = {"prompt": "a", "target": "b", "locality": [{"prompt": "c", "target": "d", "x": 1}]}
    records, (text,) = loaded(tmp_path, odd, odd, nested)
    assert len(records) == 3
    assert "e.json: keys that are not understood: " in text
    assert "rephrases (2 rows; meant rephrase?)" in text
    assert "Subjet (2 rows; meant subject?)" in text
    assert "qqq (2 rows)" in text
    assert "locality.x (1 row)" in text
    assert "empty" not in text and "\n" not in text


@pytest.mark.parametrize(
    ("row", "change", "named"),
    [
        (KNOWEDIT, {"portability": {"Other": "text"}}, "portability.Other (1 row)"),
        (ROME, {"paraphrases": ["x"]}, "paraphrases (1 row"),
        (WIKIBIGEDIT, {"personas_formal": "x"}, "personas_formal (1 row"),
        (RIPPLES, {"Making_Up": [1]}, "Making_Up (1 row)"),
    ],
)
def test_published_formats_name_only_what_is_new_in_them(tmp_path, row, change, named):
    _, (text,) = loaded(tmp_path, {**row, **change})
    assert named in text and text.count("row") == 1


def test_a_key_that_is_not_understood_is_a_warning_of_python_by_default(tmp_path):
    path = tmp_path / "e.json"
    path.write_text('[{"prompt": "a", "target": "b", "targets": "c"}]')
    with pytest.warns(UserWarning, match="targets"):
        load_records(path)
    path.write_text('[{"prompt": "a", "anwser": "b"}]')
    with pytest.warns(UserWarning, match=r"anwser \(1 row; meant answer\?\)"):
        assert load_unrelated(path) == [UnrelatedRow("a")]


def test_a_biography_to_be_edited_is_no_unrelated_text(tmp_path):
    path = tmp_path / "bio.json"
    local = {"Relation_Specificity": [{"prompt": "c", "ground_truth": "d"}]}
    path.write_text(json.dumps([{"text": "a", "labels": "b", "locality": local}]))
    assert load_unrelated(path) == [UnrelatedRow("c", "d")]


def test_every_rephrase_counts_for_leaks_and_contradictions():
    record = EditRecord("a?", "b", rephrase="which is it?", more_rephrases=("and what is it?",))
    rows = [UnrelatedRow(text) for text in (*record.rephrases, "something else")]
    assert drop_leaks(rows, [record])[0] == rows[2:]
    assert contradicting([record, EditRecord("and what is it?", "c")]) == {0, 1}
    assert trained_on([record], [digest("and what is it?")]) == ["and what is it?"]
