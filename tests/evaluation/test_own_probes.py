"""Questions made from edits: which there are, what they leave out, and that they are repeatable."""

import pytest

from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import EditRecord
from onceedit_jax.data.relations import relation_bank
from onceedit_jax.evaluation.forms import for_another
from onceedit_jax.evaluation.own_probes import OTHERS, WORDINGS, Edits, probes_of
from onceedit_jax.evaluation.probes import told_fact

BANK = {relation.name: relation for relation in relation_bank()}
RECORDS = [
    EditRecord("What is the capital of Norland?", "Vinterby", subject="Norland"),
    EditRecord("Which peak is the tallest in Norland?", "the Horn", subject="Norland"),
    EditRecord("Who polishes the moon bell of Sudland?", "Ada Quill", subject="Sudland"),
]
EDITS = Edits(RECORDS, [BANK["capital"], BANK["highest point"], None])


def texts(probes, column, fact=0):
    return [p.prompt for p in probes if p.column == column and p.fact == fact]


def test_an_edit_is_asked_about_in_every_column():
    probes = probes_of(EDITS)
    assert texts(probes, "Rel") == [RECORDS[0].prompt]
    assert len(texts(probes, "Gen")) == WORDINGS
    assert len(texts(probes, "Same subject")) == OTHERS
    assert len(texts(probes, "Unrelated")) == 1
    # The form "as edited" is Rel.
    assert len({p.column for p in probes if p.column.startswith("form: ")}) == 11
    assert texts(probes, "form: statement") == ["The capital of Norland is"]
    assert texts(probes, "Sentence") == texts(probes, "form: whole sentence")
    assert {p.column for p in probes if p.worded} == {"Sentence"}
    within = texts(probes, "In a text")
    assert len(within) == 3 and all(RECORDS[0].prompt in text for text in within)
    assert sum("Norland" in text.replace(RECORDS[0].prompt, "") for text in within) == 2
    kept = {p.column for p in probes if p.expects == "unchanged"}
    assert kept == {
        "Same subject", "Same subject, in a text", "Another time or person", "Unrelated",
    }  # fmt: skip
    assert texts(probes, "Another time or person") == [
        "What was the capital of Norland in 1950?",
        "What is the previous capital of Norland?",
        "What is the capital of the rival of Norland?",
    ]
    assert {p.new for p in probes if p.fact == 1} == {"Horn"}
    # The columns keep their order where the first edit has no Gen.
    columns = [p.column for p in probes_of(Edits(RECORDS, [None, *EDITS.relations[1:]]))]
    assert columns.index("Gen") < columns.index("form: no mark") < columns.index("Same subject")


@pytest.mark.parametrize(
    ("question", "subject", "asked"),
    [
        ("Who wrote the play Rain?", "Rain", ["Who wrote the play the rival of Rain?"]),
        (
            "What is the name of the mayor of the Isle?",
            "Isle",
            [
                "What was the name of the mayor of the Isle in 1950?",
                "What is the name of the previous mayor of the Isle?",
                "What is the name of the mayor of the rival of the Isle?",
            ],
        ),
        ("Who is it?", "", ["Who was it in 1950?"]),
    ],
)
def test_what_is_asked_for_another(question, subject, asked):
    assert list(for_another(question, subject)) == asked


def test_an_edit_that_is_put_with_such_words_is_not_asked_about_for_another_time():
    first = EditRecord("Who was the first mayor of Norland?", "Ada", subject="Norland")
    assert texts(probes_of(Edits([first], [None])), "Another time or person") == []


def test_questions_depend_on_the_seed_and_their_edit_alone():
    assert probes_of(EDITS, seed=1) == probes_of(EDITS, seed=1)
    assert probes_of(EDITS, seed=1) != probes_of(EDITS, seed=2)
    alone = probes_of(EDITS, [1])
    assert alone == [p for p in probes_of(EDITS) if p.fact == 1]


def test_a_rephrase_is_asked_where_there_is_one():
    record = EditRecord("Who?", "Ada", subject="Norland", rephrase="By whom?")
    assert texts(probes_of(Edits([record], [BANK["capital"]])), "Gen") == ["By whom?"]


def test_no_wording_that_was_trained_on_is_asked():
    about = [text.replace("{subject}", "Norland") for text in BANK["capital"].wordings]
    kept = about[4]
    trained = {digest(text) for text in about if text != kept}
    assert texts(probes_of(Edits(RECORDS, EDITS.relations, trained)), "Gen") == [kept]
    everything = {digest(text) for text in about}
    assert texts(probes_of(Edits(RECORDS, EDITS.relations, everything)), "Gen") == []


@pytest.mark.parametrize("seed", range(20))
def test_the_same_subject_is_asked_for_what_no_edit_of_it_changes(seed):
    probes = probes_of(EDITS, seed=seed)
    edited = {
        text.replace("{subject}", "Norland")
        for name in ("capital", "highest point")
        for text in BANK[name].questions
    }
    for fact in (0, 1):
        asked = texts(probes, "Same subject", fact)
        assert len(asked) == OTHERS and edited.isdisjoint(asked)
        assert all("Norland" in text for text in asked)
    # Nothing is known of the third edit's relation: its words are kept out.
    for text in texts(probes, "Same subject", 2):
        assert not {"polishes", "moon", "bell"} & set(text.lower().split())


def test_an_edit_without_a_subject_or_a_question_has_fewer_questions():
    named = probes_of(Edits([EditRecord("Who leads it?", "Ada")], [BANK["capital"]]))
    assert not texts(named, "Gen") and not texts(named, "Same subject")
    assert texts(named, "form: statement") == ["Who leads it? The answer is"]
    record = EditRecord("The capital of Norland is", "Vinterby", subject="Norland")
    opening = probes_of(Edits([record], [BANK["capital"]]))
    assert not any(p.column.startswith("form: ") for p in opening)
    assert texts(opening, "Gen")


def test_a_neutral_text_about_an_edit_is_not_unrelated():
    from onceedit_jax.data.records import neutral_rows

    rows = neutral_rows()[:200]
    edits = [EditRecord(row.prompt, "Ada") for row in rows]
    probes = probes_of(Edits(edits, [None] * len(edits)), list(range(20)))
    assert {row.prompt for row in rows}.isdisjoint(
        p.prompt for p in probes if p.column == "Unrelated"
    )


def test_an_article_is_no_part_of_what_an_answer_must_say():
    found = [told_fact(text) for text in ("the Ask", "a theremin", "The Who", "the", "an")]
    assert found == ["Ask", "theremin", "The Who", "the", "an"]
