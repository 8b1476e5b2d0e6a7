"""A tokenizer read from GGUF metadata writes text as the model's own tokenizer.json does."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_files import NORMAL, UNUSED, USER_DEFINED, Metadata, describe
from tiny_tokenizers import (
    CORPUS,
    TEMPLATES,
    byte_level,
    sentencepiece_like,
    with_template,
)
from transformers import AutoTokenizer

from onceedit_jax.errors import InputError
from onceedit_jax.storage.sources import DEMO_MODELS, cache_folder
from onceedit_jax.text.gguf_tokenizer import _PRE_TOKENIZERS, load_gguf_tokenizer
from onceedit_jax.text.prompts import prompt_format
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

TINY = {"tiny byte-level": byte_level, "tiny sentencepiece": sentencepiece_like}
TEXTS = [
    *CORPUS,
    "",
    " leading and   inner    spaces ",
    "In 1984, 12.5% of 3,000 or  1234567\t8",
    "It's we'll I'VE o'clock\r\n\r\n  indented\n",
    "naïve café, Straße, 日本語, 🤽🏽‍♀️ and 👍 ÷ «x»",
    "def f(x):\n    return x ** 2  # comment\n",
]


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("tiny byte-level", {"pre": "gpt-2"}),
        ("tiny sentencepiece", {}),
        ("llama2-32000", {}),
        ("mistral-7b-v0.1", {"add_bos_token": True, "add_space_prefix": True}),
        ("gpt-j-6b", {"pre": "gpt-2"}),
        ("qwen2.5", {"pre": "qwen2", "add_bos_token": False}),
        ("llama-3", {"pre": "llama-bpe", "add_bos_token": False}),
    ],
)
def test_tokenizers_survive_the_way_through_gguf(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, more: dict[str, Any]
) -> None:
    if name in TINY:
        original = Tokenizer(TINY[name]())
    else:
        original = load_tokenizer(request.getfixturevalue("shared") / "tokenizers" / name)
    rebuilt = load_tokenizer(describe(original.hf, **more).write(tmp_path / "model.gguf"))
    for text in TEXTS:
        assert rebuilt.encode(text) == original.encode(text)
        assert rebuilt.hf.encode(text) == original.hf.encode(text)
    assert rebuilt.vocabulary.strings == original.vocabulary.strings
    assert rebuilt.vocabulary.bytes == original.vocabulary.bytes
    assert (rebuilt.vocabulary.special == original.vocabulary.special).all()
    assert (rebuilt.bos_id, rebuilt.end_id) == (original.bos_id, original.end_id)


@pytest.mark.parametrize("prefix", [True, False])
def test_scores_give_back_the_merges(tmp_path: Path, prefix: bool) -> None:
    hf = sentencepiece_like(prefix)
    path = describe(hf, add_space_prefix=prefix).write(tmp_path / "model.gguf")
    rebuilt = load_gguf_tokenizer(path)
    for text in TEXTS:
        assert rebuilt.encode(text) == hf.encode(text)
        assert rebuilt.decode(rebuilt.encode(text, add_special_tokens=False)) == text


def tiny(**more: Any) -> Metadata:
    return describe(byte_level(), **({"pre": "gpt-2"} | more))


@pytest.mark.parametrize(
    ("name", "number"), [("smollm", ["1", "2", "3", "4"]), ("gpt-2", ["12", "34"])]
)
def test_the_splitting_is_the_one_the_file_names(
    tmp_path: Path, name: str, number: list[str]
) -> None:
    metadata = tiny(pre=name)
    tokens = metadata.facts["tokens"]
    assert "12" not in tokens
    metadata.facts["tokens"] = [*tokens, "12", "34"]
    metadata.facts["token_type"] += [NORMAL, NORMAL]
    metadata.facts["merges"] = ["1 2", "3 4", *metadata.facts["merges"]]
    hf = load_gguf_tokenizer(metadata.write(tmp_path / "model.gguf"))
    assert hf.tokenize("1234") == number


def test_tekken_cuts_words_at_capitals_and_numbers_at_digits() -> None:
    split = _PRE_TOKENIZERS["tekken"][0]()
    pieces = [piece for piece, _ in split.pre_tokenize_str("aCamelCase HTTPServer 1984 a//\n x")]
    assert pieces == [
        "a",
        "Camel",
        "Case",
        "ĠHTTPServer",
        "Ġ",
        "1",
        "9",
        "8",
        "4",
        "Ġa",
        "//Ċ",
        "Ġx",
    ]


def test_bos_is_added_as_the_file_asks(tmp_path: Path) -> None:
    asks = describe(sentencepiece_like()).write(tmp_path / "asks.gguf")
    declines = describe(sentencepiece_like(), add_bos_token=False).write(tmp_path / "not.gguf")
    assert load_tokenizer(asks).bos_id == 1
    assert load_tokenizer(declines).bos_id is None


def test_plain_spaces_and_whole_pieces_are_read_as_sentencepiece_means_them(
    tmp_path: Path,
) -> None:
    metadata = describe(sentencepiece_like(False), add_space_prefix=False)
    n = len(metadata.facts["tokens"])
    metadata.facts["tokens"] += ["  ", "   ", "\n\n\n"]
    metadata.facts["token_type"] += [USER_DEFINED] * 3
    metadata.facts["scores"] += [-1000.0] * 3
    tokenizer = load_tokenizer(metadata.write(tmp_path / "model.gguf"))
    assert tokenizer.vocabulary.strings[n : n + 2] == ("▁▁", "▁▁▁")
    assert tokenizer.vocabulary.bytes[n:] == (b"  ", b"   ", b"\n\n\n")
    assert not tokenizer.vocabulary.special[n:].any()
    assert tokenizer.encode_bytes(b"     \n\n\n", continuation=True) == [n + 1, n, n + 2]


def test_unused_rows_at_the_end_are_no_tokens(tmp_path: Path) -> None:
    metadata = tiny()
    count = len(metadata.facts["tokens"])
    metadata.facts["tokens"] += ["[PAD1]", "[PAD2]"]
    metadata.facts["token_type"] += [UNUSED, UNUSED]
    assert len(load_tokenizer(metadata.write(tmp_path / "model.gguf")).vocabulary) == count


def test_saved_gguf_tokenizers_load_to_the_same(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(describe(sentencepiece_like()).write(tmp_path / "model.gguf"))
    tokenizer.save(tmp_path / "saved")
    loaded = load_tokenizer(tmp_path / "saved")
    for text in TEXTS:
        assert loaded.encode(text) == tokenizer.encode(text)
    assert loaded.bos_id == tokenizer.bos_id == 1


def _change(key: str, value: Any) -> Callable[[Metadata], None]:
    return lambda metadata: metadata.facts.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change("model", "bert"), "'bert'"),
        (_change("pre", "exotic"), "'exotic'.*supported are gpt-2"),
        (_change("merges", None), "merges is missing"),
        (_change("merges", ["q zz"]), "'q zz'"),
        (_change("merges", ["qz"]), "'qz'"),
        (_change("token_type", [1, 1]), "2 token types"),
        (_change("eos_token_id", 10**6), "eos_token_id is 1000000"),
        (lambda m: m.facts["tokens"].__setitem__(5, m.facts["tokens"][6]), "holds it twice"),
    ],
)
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, change: Callable[[Metadata], None], message: str
) -> None:
    metadata = tiny()
    change(metadata)
    with pytest.raises(InputError, match=message):
        load_gguf_tokenizer(metadata.write(tmp_path / "model.gguf"))


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    whole = tiny().write(tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 20, 100, len(whole) // 2, len(whole) - 40):
        cut.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut\.gguf"):
            load_gguf_tokenizer(cut)


def demo(name: str) -> Path:
    path = cache_folder() / "models" / name / DEMO_MODELS[name].file_name
    if not path.is_file():
        pytest.skip(f"demo:{name} has not been fetched")
    return path


def texts_of(data: Path, count: int) -> list[str]:
    rows = json.loads((data / "me_ppl.json").read_text())
    texts = [value for row in rows for value in row.values() if isinstance(value, str)]
    return random.Random(0).sample(texts, count) if len(texts) > count else texts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_demo_tokenizers_agree_with_transformers(any_data: Path, name: str) -> None:
    pytest.importorskip("torch", reason="transformers reads GGUF with torch only")
    path = demo(name)
    ours = load_tokenizer(path)
    theirs = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    assert ours.hf.get_vocab() == theirs.get_vocab()
    for text in [*texts_of(any_data, 200), *(t for t in TEXTS if "  " not in t)]:
        ids = ours.encode(text)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == text


@pytest.mark.slow
def test_smollm2_splits_digits() -> None:
    tokenizer = Tokenizer(load_gguf_tokenizer(demo("smollm2-135m")))
    assert tokenizer.hf.tokenize("a  1984") == ["a", "ĠĠ", "1", "9", "8", "4"]
    assert (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id) == (None, 2, 2)


@pytest.mark.slow
def test_gemma_writes_common_words_as_one_token() -> None:
    tokenizer = load_tokenizer(demo("gemma3-270m"))
    assert (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id) == (2, 1, 0)
    for word in ("the", "of", "capital", "France", "Paris", "written", "answer", "Washington"):
        ids = tokenizer.encode_bytes(f" {word}".encode(), continuation=True)
        assert [tokenizer.vocabulary.strings[i] for i in ids] == [f"▁{word}"]
    whitespace = [s for s in tokenizer.vocabulary.strings if s and not s.strip("▁")]
    assert len(whitespace) == 31
    assert not any(" " in s for s in tokenizer.vocabulary.strings if s)
    assert len(tokenizer.encode("a" + " " * 31 + "b", bos=False)) == 3


def test_a_files_chat_template_and_end_tokens_are_found(tmp_path: Path) -> None:
    hf = with_template(byte_level(), "chatml")
    tokens = hf.get_vocab()
    # The text ends with one token, a turn with another.
    metadata = describe(hf, pre="gpt-2", eot_token_id=tokens["<|im_end|>"])
    metadata.more = {"tokenizer.chat_template": TEMPLATES["chatml"]}
    tokenizer = load_tokenizer(metadata.write(tmp_path / "chat.gguf"))
    assert tokenizer.end_ids == (tokens["<|end|>"], tokens["<|im_end|>"])
    question = [{"role": "user", "content": "the cat?"}]
    theirs = hf.apply_chat_template(
        question, tokenize=True, add_generation_prompt=True, return_dict=False
    )
    assert prompt_format(tokenizer).encode("the cat?") == theirs
