"""Words that were added to a tokenizer are single tokens; what is special is never text."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import byte_level, sentencepiece_like
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from tokenizers import pre_tokenizers as pre
from transformers import PreTrainedTokenizerFast

from onceedit_jax.errors import InputError
from onceedit_jax.text.anchors import anchors
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

WORDS = ["Vinterby", "zorvamab", "café", "Ny Havn"]
TEXT = "The drug zorvamab is made in Vinterby, at the café of Ny Havn."


def _metaspace(scheme: str) -> Backend:
    backend = Backend.from_str(sentencepiece_like(False).backend_tokenizer.to_str())
    backend.pre_tokenizer = pre.Metaspace(prepend_scheme=scheme, split=False)
    backend.normalizer = None
    return backend


def _spaced() -> Backend:
    backend = Backend.from_str(byte_level().backend_tokenizer.to_str())
    backend.pre_tokenizer = pre.ByteLevel(add_prefix_space=True)
    return backend


KINDS = {
    "byte-level": lambda: Backend.from_str(byte_level().backend_tokenizer.to_str()),
    "byte-level, prefix": _spaced,
    "sentencepiece": lambda: Backend.from_str(sentencepiece_like().backend_tokenizer.to_str()),
    "no prefix": lambda: Backend.from_str(sentencepiece_like(False).backend_tokenizer.to_str()),
    "metaspace first": lambda: _metaspace("first"),
    "metaspace always": lambda: _metaspace("always"),
}


def saved(folder: Path, backend: Backend, words: list[str | AddedToken], **roles: str) -> Path:
    end = "<|end|>" if backend.token_to_id("<|end|>") is not None else "</s>"
    hf = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end)
    hf.add_tokens([AddedToken("<|new_mark|>", special=True), *words])
    if roles:
        hf.add_special_tokens(roles)
    hf.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("words") / "t", KINDS[request.param](), [*WORDS])


@pytest.fixture(scope="module")
def loaded(folder: Path) -> tuple[Tokenizer, Backend]:
    return load_tokenizer(folder), Backend.from_file(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    "text",
    [TEXT, "Vinterby", " Vinterby is", "xVinterbyx", "in 1984\n café 日本 🙂", "no words", ""],
)
def test_words_are_the_tokens_that_the_file_says(loaded, text):
    tokenizer, own = loaded
    assert tokenizer.encode(text, bos=False) == own.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_bytes(text.encode(), bos=False) == tokenizer.encode(text, bos=False)


@settings(max_examples=40)
@given(parts=st.lists(st.sampled_from([*WORDS, "the", "cat ", " 🙂", "\n", "12"]), max_size=6))
def test_any_text_with_words_is_as_the_file_says(loaded, parts):
    tokenizer, own = loaded
    text = "".join(parts)
    assert tokenizer.encode(text, bos=False) == own.encode(text, add_special_tokens=False).ids


def test_words_are_read_back_whole(loaded):
    tokenizer, own = loaded
    for word in WORDS:
        i = own.token_to_id(word)
        assert tokenizer.decode([i], continuation=True) == word
        assert i in tokenizer.encode(f"so {word}", bos=False)
        assert not tokenizer.vocabulary.special[i]


def test_words_are_anchors_where_both_models_have_them(loaded):
    tokenizer, own = loaded
    ids = {own.token_to_id(word) for word in WORDS}
    found = anchors(tokenizer.vocabulary, tokenizer.vocabulary, rule="bytes")
    assert ids <= {*found.ids_a.tolist()}
    without = Tokenizer(byte_level()).vocabulary
    others = {*anchors(tokenizer.vocabulary, without, rule="bytes").ids_a.tolist()}
    assert others and own.token_to_id("zorvamab") not in others


def test_words_cross_to_a_model_without_them(loaded):
    tokenizer, own = loaded
    other = Tokenizer(byte_level())
    ids = [own.token_to_id("zorvamab")]
    crossed = Bridge(tokenizer, other).cross("The drug is", [*ids])
    assert other.decode(crossed).endswith("zorvamab")
    assert Bridge(other, tokenizer).cross("The drug ", other.encode("zorvamab"))[-1] == ids[0]


def test_the_target_of_a_pair_begins_at_the_word(loaded):
    tokenizer, own = loaded
    ids, start = tokenizer.encode_pair("The drug is", "zorvamab")
    assert ids == tokenizer.encode("The drug is zorvamab")
    assert own.token_to_id("zorvamab") in ids[start:]
    assert "zorvamab" not in tokenizer.decode(ids[:start])
    first, begin = tokenizer.encode_pair("Vinterby is", "cold")
    assert own.token_to_id("Vinterby") in first[:begin]
    assert tokenizer.decode(first[begin:], continuation=True).strip() == "cold"


def test_special_words_and_markers_are_never_text(tmp_path):
    marks = ["<tool>", AddedToken("<|m|>", special=True)]
    tokenizer = load_tokenizer(saved(tmp_path, KINDS["byte-level"](), [*marks, "zorvamab"]))
    ids = tokenizer.encode("<|new_mark|> <tool> <|m|> <|end|> zorvamab")
    assert not tokenizer.vocabulary.special[ids].any()
    assert tokenizer.decode(ids) == "<|new_mark|> <tool> <|m|> <|end|> zorvamab"
    assert ids[-1] == tokenizer.hf.convert_tokens_to_ids("zorvamab")


def test_the_file_says_which_words_are_special(tmp_path):
    saved(tmp_path, KINDS["byte-level"](), ["zorvamab"])
    path = tmp_path / "tokenizer_config.json"
    own = Backend.from_file(str(tmp_path / "tokenizer.json"))
    i = own.token_to_id("zorvamab")
    listed = {str(i): {"content": "zorvamab", "special": True}}
    path.write_text(json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": listed}))
    tokenizer = load_tokenizer(tmp_path)
    assert i in tokenizer.encode("a zorvamab") and tokenizer.decode([i]) == "zorvamab"


@pytest.mark.parametrize("file", ["tokenizer_config.json", "added_tokens.json"])
def test_a_word_of_another_file_has_its_id_or_is_refused(tmp_path, file):
    saved(tmp_path, KINDS["byte-level"](), [])
    size = Backend.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    path = tmp_path / file
    values = json.loads(path.read_text()) if path.exists() else {}

    def added(i: int) -> None:
        entry = {"added_tokens_decoder": {str(i): {"content": "zorvamab"}}}
        change = {"zorvamab": i} if file == "added_tokens.json" else entry
        path.write_text(json.dumps({**values, **change}))

    added(size)
    assert size in load_tokenizer(tmp_path).encode("a zorvamab b")
    added(size + 5)
    with pytest.raises(InputError, match=rf"'zorvamab', {size + 5}, is {size} once loaded"):
        load_tokenizer(tmp_path)


def test_ids_with_gaps_are_refused(tmp_path):
    saved(tmp_path, KINDS["byte-level"](), ["zorvamab"])
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    values["added_tokens"][-1]["id"] += 3
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"added token 'zorvamab'.*its ids have gaps"):
        load_tokenizer(tmp_path)


def test_padding_beyond_the_rows_is_left_out(tmp_path):
    saved(tmp_path, KINDS["byte-level"](), [], pad_token="[PAD]")
    whole = load_tokenizer(tmp_path)
    rows = whole.pad_id
    assert rows == len(whole.vocabulary) - 1
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows}))
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_id, len(tokenizer.vocabulary)) == (tokenizer.end_id, rows)
    assert tokenizer.decode(tokenizer.encode("a [PAD] b")) == "a [PAD] b"
    assert max(tokenizer.encode("a [PAD] b")) < rows
    assert len(load_tokenizer(tmp_path, rows=rows - 1).vocabulary) == rows - 1
    inside = {"text_config": {"vocab_size": rows}}
    (tmp_path / "config.json").write_text(json.dumps(inside))
    assert len(load_tokenizer(tmp_path).vocabulary) == rows


def test_a_word_beyond_the_rows_is_refused(tmp_path):
    saved(tmp_path, KINDS["byte-level"](), ["zorvamab"])
    rows = len(load_tokenizer(tmp_path).vocabulary) - 1
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": rows}))
    with pytest.raises(InputError, match=rf"'zorvamab' has id {rows}, and .* {rows} rows"):
        load_tokenizer(tmp_path)


def test_an_end_token_beyond_the_rows_is_refused(tmp_path):
    saved(tmp_path, KINDS["byte-level"](), [], eos_token="<|stop|>")
    rows = len(load_tokenizer(tmp_path).vocabulary) - 1
    with pytest.raises(InputError, match=f"eos_token has id {rows}, and the embedding has {rows}"):
        load_tokenizer(tmp_path, rows=rows)
