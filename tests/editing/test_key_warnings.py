"""Edits whose key says little are warned of when they are made."""

import pytest

from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import EditRecord, UnrelatedRow, demo_path
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.key_warnings import MOST, key_warnings, unconcerned_texts
from onceedit_jax.editing.settings import EditSettings

TEXTS = [f"The harbour of town {n} is old, and it may be closed." for n in range(8)]


def asked(prompt, subject=None, **more):
    return EditRecord(prompt, "Ada Quill", subject=subject, **more)


@pytest.mark.parametrize("name", ["May", "Will", "It", "may"])
def test_a_common_word_is_no_key(name):
    (text,) = key_warnings([asked(f"Where was {name} born?", name)], TEXTS)
    count = 8 if name in ("May", "may", "It") else 0
    assert f"edit 1 of 1 ('Where was {name} born?'): its key {name!r} is a common word" in text
    assert f"{count} of 8 neutral texts" in text and "longer `subject`" in text
    assert key_warnings([asked(f"Where was {name} Quill born?", f"{name} Quill")], TEXTS) == []


def test_a_name_that_stands_in_many_texts_is_no_key():
    records = [asked("Where is the harbour?", "harbour"), asked("Who leads Norland?", "Norland")]
    texts = [*TEXTS, *(f"Nobody knows number {n}." for n in range(300))]
    (text,) = key_warnings(records, texts)
    assert "edit 1 of 2" in text and "'harbour' stands in 8 of 308 neutral texts" in text
    assert key_warnings(records, texts[2:]) == []  # 6 of 306: there is such a harbour


def test_a_longer_name_is_no_match_of_a_shorter_one():
    york = asked("Who leads York?", "York")
    assert len(key_warnings([york], ["We saw York in the rain."])) == 1
    assert key_warnings([york], ["We saw New York in the rain."]) == []


def test_an_alias_is_a_key_too():
    (text,) = key_warnings([asked("Who leads Norland?", "Norland", aliases=("us",))], TEXTS)
    assert "'us' is a common word" in text


def test_an_edit_without_a_subject_in_its_prompt():
    nobody, other, guessed = key_warnings(
        [
            asked("who wrote this?"),
            asked("Who leads the north?", "Norland"),
            asked("Who leads Norland?", "Kingdom of Norland"),
            asked("Who leads Norland?"),  # the name in the prompt serves
        ],
        TEXTS,
    )
    assert "edit 1 of 4" in nobody and "names no subject" in nobody
    assert "edit 2 of 4" in other and "does not name its subject 'Norland'" in other
    assert "edit 3 of 4" in guessed and "looks for 'Norland' too" in guessed


def test_hundreds_of_weak_keys_are_no_flood():
    lines = key_warnings([asked("who wrote this?")] * 300, [])
    assert len(lines) == MOST + 1 and lines[-1] == f"{300 - MOST} more edits have such keys"


def test_the_packages_own_edits_have_good_keys():
    assert key_warnings(load_records(demo_path("demo_edits.jsonl")), unconcerned_texts()) == []


def test_given_texts_are_looked_at_too():
    texts = unconcerned_texts([UnrelatedRow("How far is it?"), UnrelatedRow("How far is it?")])
    assert texts.count("How far is it?") == 1 and len(texts) == len(unconcerned_texts()) + 1


def test_an_edit_warns_when_it_is_made(tiny_model):
    model, tokenizer = tiny_model()
    settings = EditSettings(epochs=1, paraphrase_ratio=0, held_back=0, unrelated_ratio=0)
    record = [asked("Where was May born?", "May")]
    with pytest.warns(UserWarning, match="'May' is a common word"):
        edit(model, tokenizer, record, [], settings)
    told = []
    edit(model, tokenizer, record, [], settings, on_warning=told.append)
    assert len(told) == 1
