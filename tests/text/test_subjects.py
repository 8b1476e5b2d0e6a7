"""Subjects in texts: phrases of whole words, the longest first, whatever their case and accents."""

from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given

from onceedit_jax.text.subjects import Subjects, fold, names_in

WORD = st.text("abcdeéüß", min_size=1, max_size=4)
NAME = st.lists(WORD, min_size=1, max_size=3).map(" ".join)


def found(names, text):
    return [mention.subject for mention in Subjects([[name] for name in names]).find(text)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("York", "Who is the mayor of York?"),
        ("York", "who is the mayor of york"),
        ("York", "WHO IS THE MAYOR OF YORK?"),
        ("York", "York's mayor is"),
        ("York", "Is York in England?"),
        ("Müller", "When was muller born?"),
        ("Muller", "When was Müller born?"),
        ("İstanbul", "What is the population of istanbul?"),
        ("Straße", "Where is STRASSE?"),
        ("Obama", "Where was President Obama born?"),
        ("Paris", "What Is The Population Of Paris Today?"),
        ("The Who", "Who sang for The Who?"),
        ("東京", "東京の人口は"),
        ("C++", "Who designed C++?"),
    ],
)
def test_a_subject_is_found(name, text):
    (mention,) = Subjects([[name]]).find(text)
    assert mention.subject == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("York", "Who is the mayor of New York?"),
        ("New York", "Who is the mayor of York?"),
        ("York", "Who is the mayor of Yorkshire?"),
        ("Paris", "When was Paris Hilton born?"),
        ("York New", "Who is the mayor of New York?"),
    ],
)
def test_another_name_is_not_the_subject(name, text):
    assert found([name], text) == []


def test_of_overlapping_names_the_longest_is_found():
    names = ["york", "new york", "new york city", "city hall"]
    assert found(names, "where is new york city hall") == [2]
    assert found(names, "is york older than new york?") == [0, 1]


def test_all_names_of_a_subject_have_its_number():
    subjects = Subjects([["United States", "US", "USA"], ["France"]])
    text = "Do the US and France trade with the united states?"
    assert [mention.subject for mention in subjects.find(text)] == [0, 1, 0]
    assert subjects.number("usa") == 0
    with pytest.raises(KeyError):
        subjects.number("Spain")


@given(st.lists(NAME, min_size=1, max_size=5, unique_by=fold), st.lists(WORD, max_size=8))
def test_mentions_are_phrases_of_the_text_and_do_not_overlap(names, words):
    text, subjects = " ".join(words), Subjects([[name] for name in names])
    mentions = subjects.find(text)
    for mention in mentions:
        assert fold(text[mention.start : mention.stop]) == fold(names[mention.subject])
    spans = [(mention.start, mention.stop) for mention in mentions]
    assert all(one[1] <= other[0] for one, other in pairwise(spans))


@given(st.lists(NAME, min_size=1, max_size=4, unique_by=fold), NAME, st.lists(WORD, max_size=8))
def test_a_new_subject_that_is_not_named_changes_nothing(names, new, words):
    text = " ".join(words)
    before = Subjects([[name] for name in names]).find(text)
    after = Subjects([*([name] for name in names), [new]]).find(text)
    if all(mention.subject < len(names) for mention in after):
        assert after == before


@given(st.text(max_size=20))
def test_folding_twice_changes_nothing(text):
    assert fold(fold(text)) == fold(text)


def test_names_are_runs_of_capitals_after_the_first_word():
    assert names_in("Who led New York in 1995, and Paris?") == ["New York", "1995", "Paris"]
    assert names_in("where is it") == []
