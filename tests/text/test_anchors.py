"""Anchors come out as published, and as measured for every pair of real vocabularies."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from onceedit_jax.errors import InputError
from onceedit_jax.text.anchors import anchors
from onceedit_jax.text.vocabulary import Vocabulary, vocabulary

MEASURED = [
    ("llama2-32000", 31_999, 0, 31_904),  # TinyLlama's vocabulary is Llama-2's: the paper's number
    ("gpt-j-6b", 17_830, 144, 18_207),  # the paper's number
    ("mistral-7b-v0.1", 24_184, 0, 24_088),
    ("llama-3", 22_430, 148, 26_599),
    ("qwen2.5", 22_289, 149, 26_342),
]


@pytest.fixture(scope="module")
def hf(any_tokenizers: Path) -> Callable[[str], Any]:
    """Gives a tokenizer of transformers by name; a tiny one where there is no reference data."""

    @cache
    def load(name: str) -> Any:
        return AutoTokenizer.from_pretrained(str(any_tokenizers / name))

    return load


@pytest.mark.parametrize(("name", "paper", "differ", "by_bytes"), MEASURED)
def test_counts_with_llama2(
    shared: Path, hf: Callable[[str], Any], name: str, paper: int, differ: int, by_bytes: int
) -> None:
    llama, other = (vocabulary(hf(n)) for n in ("llama2-32000", name))
    found = anchors(llama, other, rule="paper")
    pairs = zip(found.ids_a, found.ids_b, strict=True)
    assert len(found) == paper
    assert sum(llama.bytes[a] != other.bytes[b] for a, b in pairs) == differ
    assert len(anchors(llama, other, rule="bytes")) == by_bytes


def test_mappings_and_vocabularies_give_the_same_paper_anchors(hf: Callable[[str], Any]) -> None:
    pair = [hf(name) for name in ("llama2-32000", "gpt-j-6b")]
    by_mapping = anchors(*(tokenizer.get_vocab() for tokenizer in pair))
    by_vocabulary = anchors(*map(vocabulary, pair))
    assert len(by_mapping) > 10
    np.testing.assert_array_equal(by_mapping.ids_a, by_vocabulary.ids_a)
    np.testing.assert_array_equal(by_mapping.ids_b, by_vocabulary.ids_b)


@pytest.mark.parametrize("name", ["gpt-j-6b", "qwen2.5"])
def test_padding_and_chat_markers_are_never_anchors(hf: Callable[[str], Any], name: str) -> None:
    vocab = vocabulary(hf(name))
    found = anchors(vocab, vocab, rule="bytes")
    markers = vocab.special.copy()
    markers[list(vocab.control_ids.values())] = False
    assert len(found) > 10 and not markers[found.ids_a].any()


def test_word_start_marks_are_one_and_the_lower_id_is_kept() -> None:
    shared = anchors({"Ġthe": 7, "▁the": 3, "x": 1}, {"▁the": 5, "Ġ": 2, "x": 9})
    assert shared.ids_a.tolist() == [1, 3]
    assert shared.ids_b.tolist() == [9, 5]
    assert shared.ids_a.dtype == shared.ids_b.dtype == np.int32


def test_a_control_token_matches_its_namesake_and_never_text() -> None:
    special, none = np.array([True, False]), np.zeros(2, dtype=np.bool_)
    control = Vocabulary(("<s>", "a"), (b"", b"a"), special, None, special)
    text = Vocabulary(("<s>", "a"), (b"<s>", b"a"), none)
    assert anchors(control, text, rule="bytes").ids_a.tolist() == [1]
    assert anchors(control, control, rule="bytes").ids_a.tolist() == [0, 1]


def test_disjoint_vocabularies_have_no_anchors() -> None:
    shared = anchors({"a": 0}, {"b": 0})
    assert len(shared) == 0
    assert shared.ids_b.shape == (0,)


words = st.text("ab▁Ġ", min_size=1, max_size=3)
mappings = st.lists(words, unique=True).map(lambda ws: {w: i for i, w in enumerate(ws)})


@given(a=mappings, b=mappings)
def test_anchors_are_a_partial_matching(a: dict[str, int], b: dict[str, int]) -> None:
    forth, back = anchors(a, b), anchors(b, a)
    assert len(forth) == len(back)
    assert sorted(zip(back.ids_b, back.ids_a, strict=True)) == list(
        zip(forth.ids_a, forth.ids_b, strict=True)
    )
    assert (np.diff(forth.ids_a) > 0).all()
    assert len(set(forth.ids_b.tolist())) == len(forth)
    string_a, string_b = ({i: w for w, i in m.items()} for m in (a, b))
    for i, j in zip(forth.ids_a.tolist(), forth.ids_b.tolist(), strict=True):
        assert string_a[i].replace("Ġ", "▁") == string_b[j].replace("Ġ", "▁")


@given(a=mappings, b=mappings, data=st.data())
def test_fewer_tokens_give_no_more_anchors(
    a: dict[str, int], b: dict[str, int], data: st.DataObject
) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(a)))) if a else set()
    fewer = anchors({w: i for w, i in a.items() if w in kept}, b)
    assert set(fewer.ids_b.tolist()) <= set(anchors(a, b).ids_b.tolist())


def test_bytes_needs_vocabularies() -> None:
    with pytest.raises(InputError, match=r"oe\.vocabulary"):
        anchors({"a": 0}, {"a": 0}, rule="bytes")


@pytest.mark.usefixtures("unchecked")
def test_unknown_rules_and_kinds_are_refused() -> None:
    with pytest.raises(InputError, match="rule 'words'"):
        anchors({"a": 0}, {"a": 0}, rule="words")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="list"):
        anchors(["a"], {"a": 0})  # type: ignore[arg-type]
