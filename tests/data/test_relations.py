"""The bank of relations, and files of relations of one's own."""

import re
from collections import Counter

import pytest
import yaml

from onceedit_jax.data.relations import ANSWER, SUBJECT, load_relations, relation_bank
from onceedit_jax.errors import InputError

ROW = {
    "name": "founder",
    "kinds": ["organisation"],
    "questions": ["Who founded {subject}?"],
    "statements": ["{subject} was founded by"],
    "requests": ["Name the founder of {subject}."],
    "sentence": "{subject} was founded by {answer}.",
}


def test_the_bank_has_many_relations_with_many_wordings_and_none_twice():
    bank = relation_bank()
    assert len(bank) >= 200 and min(len(relation.wordings) for relation in bank) >= 8
    for relation in bank:
        assert all(text.count(SUBJECT) == 1 for text in (*relation.wordings, relation.sentence))
        assert relation.sentence.count(ANSWER) == 1 and relation.kinds
        assert all(text.endswith("?") for text in relation.questions)
    counts = Counter(text.lower() for relation in bank for text in relation.wordings)
    assert counts.most_common(1)[0][1] == 1
    assert len({relation.name for relation in bank}) == len(bank)


def test_a_file_of_ones_own_is_read(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump([ROW]))
    (relation,) = load_relations(path)
    assert relation.name == "founder" and relation.kinds == {"organisation"}
    assert relation.wordings == (*ROW["questions"], *ROW["statements"], *ROW["requests"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kinds": "person"}, "relation 1, kinds: expected a list of texts, found 'person'"),
        ({"questions": ["Who?"]}, "expected {subject} once in each text, found 'Who?'"),
        ({"sentence": "{subject} was."}, "sentence: expected {answer} once"),
        ({"name": None}, "relation 1, name: expected a text, found None"),
        ({"sentence": 5}, "relation 1, sentence: expected a text, found 5"),
        (
            {"color": 1},
            "requests, sentence, found color, kinds",
        ),
    ],
)
def test_an_entry_that_is_no_relation_is_named(tmp_path, change, message):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump([{**ROW, **change}]))
    with pytest.raises(InputError, match=re.escape(message)):
        load_relations(path)


def test_two_relations_have_two_names(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump([ROW]) * 2)
    with pytest.raises(InputError, match=r"own\.yaml: 2 relations are called 'founder'"):
        load_relations(path)


@pytest.mark.parametrize(
    ("text", "message"), [("{a: [", "not YAML"), ("a: b", "expected a list of relations")]
)
def test_a_file_that_holds_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_relations(path)
    with pytest.raises(InputError, match="no such file"):
        load_relations(tmp_path / "none.yaml")
