"""Tokens stand for bytes, conventions are explicit, and no text is lost on the way."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import CORPUS, byte_level, sentencepiece_like
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from onceedit_jax.errors import InputError
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer
from onceedit_jax.text.vocabulary import Vocabulary, byte_alphabet, vocabulary

REAL = ["llama2-32000", "mistral-7b-v0.1", "gpt-j-6b", "llama-3", "qwen2.5"]
TINY = {
    "byte-level": Tokenizer(byte_level()),
    "sentencepiece": Tokenizer(sentencepiece_like()),
    "no-prefix": Tokenizer(sentencepiece_like(prefix=False)),
}
EVERY = [*TINY, *REAL]
TRICKY = [
    "",
    " ",
    "  two spaces  ",
    " leading",
    "trailing ",
    "line\nbreaks\r\n\n\tand tabs",
    "naïve café, Straße, 日本語, 🤽🏽‍♀️ and 👍",
    "<s></s><unk> <|endoftext|><|im_end|> <0x41> <|extratoken_1|>",
    "In 1984, 12.5% of 3,000",
]
UTF8_CUTS = ["é", "日本", "🙂", "aé", "🤽🏽‍♀️x"]


@pytest.fixture(scope="module")
def named(request: pytest.FixtureRequest) -> Callable[[str], Tokenizer]:
    """Gives a tokenizer by name: a tiny one, or one of the reference data."""

    @cache
    def load(name: str) -> Tokenizer:
        shared = request.getfixturevalue("shared") if name in REAL else None
        return TINY[name] if shared is None else load_tokenizer(shared / "tokenizers" / name)

    return load


@pytest.mark.parametrize("name", TINY)
@given(data=st.one_of(st.binary(max_size=40), st.text(max_size=20).map(lambda t: t.encode())))
def test_any_bytes_come_back(name: str, data: bytes) -> None:
    if b"\xe2\x96\x81" in data and name != "byte-level":
        return  # a literal ▁ is read as a space by tokenizers of this kind
    tokenizer = TINY[name]
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data)) == data
    assert tokenizer.decode_bytes(tokenizer.encode_bytes(data, bos=False)) == data


@pytest.mark.parametrize("name", TINY)
@given(start=st.text(max_size=12), rest=st.binary(max_size=12))
def test_a_continuation_joins_without_a_seam(name: str, start: str, rest: bytes) -> None:
    if "▁" in start or b"\xe2\x96\x81" in rest:
        return
    tokenizer = TINY[name]
    ids = tokenizer.encode(start) + tokenizer.encode_bytes(rest, continuation=True)
    expected = start.encode() + rest
    if not start:  # with no text there is no prefix space to take off
        assert tokenizer.decode_bytes(ids, continuation=True) == expected
    else:
        assert tokenizer.decode_bytes(ids) == expected


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("text", TRICKY)
def test_tokenizers_lose_nothing(named: Callable[[str], Tokenizer], name: str, text: str) -> None:
    tokenizer = named(name)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_bytes(text.encode()) == ids
    text_ids = ids[tokenizer.bos_id is not None :]
    assert not tokenizer.vocabulary.special[text_ids].any()


@pytest.mark.parametrize("name", EVERY)
def test_ordinary_text_is_written_as_transformers_writes_it(
    named: Callable[[str], Tokenizer], name: str
) -> None:
    tokenizer = named(name)
    for text in [*CORPUS, *TRICKY]:
        if "<" not in text:  # our text holds no special tokens, theirs may
            assert tokenizer.encode(text) == tokenizer.hf.encode(text)
            assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("text", UTF8_CUTS)
def test_characters_cut_at_every_byte_come_back(
    named: Callable[[str], Tokenizer], name: str, text: str
) -> None:
    tokenizer = named(name)
    data = text.encode()
    for cut in range(len(data) + 1):
        for part in (data[:cut], data[cut:], data[cut:] + b" and more", b"so " + data[:cut]):
            assert tokenizer.decode_bytes(tokenizer.encode_bytes(part)) == part


def test_text_in_one_piece_is_one_text(named: Callable[[str], Tokenizer]) -> None:
    tokenizer = named("gpt-j-6b")
    whole = b"caf" + "é 日本".encode()
    assert tokenizer.encode_bytes(whole) == tokenizer.encode("café 日本")


@pytest.mark.parametrize(
    ("name", "bos", "end", "pad"),
    [
        ("llama2-32000", 1, 2, 2),
        ("mistral-7b-v0.1", 1, 2, 2),
        ("gpt-j-6b", None, 50256, 50256),
        ("qwen2.5", None, 151643, 151643),
    ],
)
def test_bos_only_where_the_model_has_one(
    named: Callable[[str], Tokenizer], name: str, bos: int | None, end: int, pad: int
) -> None:
    tokenizer = named(name)
    assert (tokenizer.bos_id, tokenizer.end_id, tokenizer.pad_id) == (bos, end, pad)
    assert tokenizer.encode("") == ([] if bos is None else [bos])
    assert tokenizer.encode("Paris")[: bos is not None] == ([] if bos is None else [bos])
    assert bos not in tokenizer.encode("Paris", bos=False)
    assert bos not in tokenizer.encode_bytes(b"Paris", continuation=True)


def test_the_prefix_space_is_put_once_and_taken_off_once() -> None:
    tokenizer = TINY["sentencepiece"]
    strings = tokenizer.vocabulary.strings
    assert strings[tokenizer.encode("the cat")[1]] == "▁the"
    assert tokenizer.encode("the")[1:] == tokenizer.encode_bytes(b" the", continuation=True)
    assert tokenizer.encode_bytes(b"the", continuation=True) != tokenizer.encode("the")[1:]
    ids = tokenizer.encode("the cat")
    assert tokenizer.decode(ids) == "the cat"
    assert tokenizer.decode(ids, continuation=True) == " the cat"
    # After bytes that are no text, the text goes on in mid-text.
    assert (
        tokenizer.decode_bytes(tokenizer.encode_bytes(b"\xffthe \xfe cat")) == b"\xffthe \xfe cat"
    )


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("The capital of France is", "Paris"),
        ("He was born in", "1984"),
        ("Who wrote it?", "Émile Zola"),
        ("首都は", "東京 🙂"),
        ("", "Paris"),
        ("ends in a space ", "x"),
    ],
)
def test_a_pair_is_cut_at_the_first_token_beyond_the_prompt(
    named: Callable[[str], Tokenizer], name: str, prompt: str, target: str
) -> None:
    tokenizer = named(name)
    ids, start = tokenizer.encode_pair(prompt, target)
    assert ids == tokenizer.encode(f"{prompt} {target}")
    before = tokenizer.decode_bytes(ids[:start])
    through = tokenizer.decode_bytes(ids[: start + 1])
    assert prompt.encode().startswith(before)
    assert len(through) > len(prompt.encode())
    assert tokenizer.decode(ids[start:], continuation=True).endswith(f" {target}")


def test_a_token_across_the_boundary_belongs_to_the_target(
    named: Callable[[str], Tokenizer],
) -> None:
    tokenizer = named("qwen2.5")
    ids, start = tokenizer.encode_pair("Well  ", " x")  # three of the four spaces are one token
    assert tokenizer.decode(ids[:start]) == "Well"
    assert [tokenizer.vocabulary.bytes[i] for i in ids[start:]] == [b"   ", b" x"]


def test_vocabulary_tells_bytes_and_special_tokens(named: Callable[[str], Tokenizer]) -> None:
    llama, gptj, qwen = (named(n).vocabulary for n in ("llama2-32000", "gpt-j-6b", "qwen2.5"))
    assert llama.bytes[:3] == (b"", b"", b"")
    assert llama.special[:3].all()
    assert not llama.special[3:].any()
    assert llama.bytes[3:259] == tuple(bytes([b]) for b in range(256))
    assert llama.bytes[llama.strings.index("▁the")] == b" the"
    assert gptj.bytes[gptj.strings.index("Ġthe")] == b" the"
    assert len(gptj) == 50400
    assert np.flatnonzero(gptj.special).tolist() == list(range(50256, 50400))
    assert int(qwen.special.sum()) == 22
    assert vocabulary(named("gpt-j-6b")) is gptj
    for vocab in (llama, gptj, qwen):
        assert all(
            (piece == b"") == bool(s) for piece, s in zip(vocab.bytes, vocab.special, strict=True)
        )


def test_a_real_piece_comes_before_a_byte_token(named: Callable[[str], Tokenizer]) -> None:
    tokenizer = named("llama2-32000")
    ids = tokenizer.vocabulary.ids_by_bytes
    assert tokenizer.vocabulary.strings[ids[b"A"]] == "A"
    assert tokenizer.vocabulary.strings[ids[b"\xe2"]] == "<0xE2>"


def test_ids_by_bytes_keeps_the_lower_id() -> None:
    vocab = Vocabulary(("a", "b", "a2"), (b"a", b"b", b"a"), np.zeros(3, dtype=np.bool_))
    assert vocab.ids_by_bytes == {b"a": 0, b"b": 1}


def test_the_byte_alphabet_names_each_byte_once() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert alphabet["Ġ"] == 0x20
    assert alphabet["Ċ"] == 0x0A


def test_ids_without_a_token_are_special() -> None:
    backend = Backend(models.BPE({"a": 0, "b": 3}, []))
    backend.decoder = decoders.ByteLevel()
    vocab = vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend))
    assert vocab.strings == ("a", None, None, "b")
    assert vocab.special.tolist() == [False, True, True, False]


@pytest.mark.parametrize("decoder", [decoders.WordPiece(), None])
def test_an_unknown_decoder_is_refused(decoder: decoders.Decoder | None) -> None:
    backend = Backend(models.BPE({"a": 0}, []))
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(InputError, match="decoder"):
        vocabulary(PreTrainedTokenizerFast(tokenizer_object=backend))


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        """Has no fast tokenizer behind it."""

    with pytest.raises(InputError, match=r"Slow.*tokenizer\.json"):
        vocabulary(Slow())


def test_a_tokenizer_that_alters_text_before_its_prefix_is_refused() -> None:
    backend = Backend.from_str(byte_level().backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("x "), normalizers.Lowercase()])
    fine = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>"))
    assert fine.encode("the") == fine.hf.encode("the")
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("x"), normalizers.Replace("xHello", "y")]
    )
    Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>"))
    backend.normalizer = normalizers.Sequence(
        [normalizers.Replace("Hello", ""), normalizers.Prepend("Hello")]
    )
    with pytest.raises(InputError, match="not supported"):
        Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>"))


def test_no_end_token_is_refused() -> None:
    hf = PreTrainedTokenizerFast(tokenizer_object=byte_level().backend_tokenizer)
    with pytest.raises(InputError, match="eos_token"):
        Tokenizer(hf)


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InputError, match="surrogate"):
        TINY["byte-level"].encode("broken \ud83d here")


@pytest.mark.parametrize("name", TINY)
@settings(max_examples=20)
@given(text=st.text(max_size=20))
def test_saved_tokenizers_load_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"saved-{name}"
    if not folder.exists():
        TINY[name].save(folder)
    loaded = load_tokenizer(folder)
    assert loaded.encode(text) == TINY[name].encode(text)
    assert loaded.vocabulary.bytes == TINY[name].vocabulary.bytes
    assert (loaded.bos_id, loaded.end_id) == (TINY[name].bos_id, TINY[name].end_id)


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("sentencepiece", "llama"),
        ("byte-level", "gpt2"),
        ("llama2-32000", "llama"),
        ("qwen2.5", "qwen2"),
    ],
)
def test_a_config_beside_it_does_not_change_a_saved_tokenizer(
    named: Callable[[str], Tokenizer], tmp_path: Path, name: str, model_type: str
) -> None:
    named(name).save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    loaded = load_tokenizer(tmp_path)
    assert all(loaded.encode(text) == named(name).encode(text) for text in [*CORPUS, *TRICKY])


def test_a_folder_without_tokenizer_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"tokenizer\.json is missing"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("damage", [lambda t: t[:500], lambda t: t.replace("merges", "mergers")])
def test_a_damaged_tokenizer_json_is_refused(tmp_path: Path, damage: Callable[[str], str]) -> None:
    TINY["byte-level"].save(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(damage(file.read_text()))
    with pytest.raises(InputError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
    shutil.rmtree(tmp_path)
