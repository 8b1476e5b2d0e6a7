"""A kept tokenizer is the very one that was read: its tokens, its bytes, its roles and its text."""

import json
import subprocess
import sys

import numpy as np
import pytest
from gguf_files import describe
from support import ROOT
from tiny_tokenizers import CORPUS, byte_level, sentencepiece_like, with_template

from onceedit_jax.errors import InputError
from onceedit_jax.text import kept_tokenizer, tokenizer_file
from onceedit_jax.text import tokenizer as module
from onceedit_jax.text.prompts import prompt_format
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

TEXTS = [*CORPUS, "", "  a  1984", "naïve café 日本語 🙂", "\x00\n\n<end></s><s>"]
SAME = ("strings", "bytes")
MASKS = ("special", "byte_fallback", "control", "added")


def check_equal(kept, read):
    """Check that two tokenizers are one."""
    assert kept._fast.backend_tokenizer.to_str() == read._fast.backend_tokenizer.to_str()
    assert kept.hf.backend_tokenizer.to_str() == read.hf.backend_tokenizer.to_str()
    for name in SAME:
        assert getattr(kept.vocabulary, name) == getattr(read.vocabulary, name)
    for name in MASKS:
        np.testing.assert_array_equal(
            getattr(kept.vocabulary, name), getattr(read.vocabulary, name)
        )
    for name in ("name", "bos_id", "end_id", "end_ids", "pad_id", "chat_template"):
        assert getattr(kept, name) == getattr(read, name)
    for text in TEXTS:
        assert kept.encode(text) == read.encode(text)
        assert kept.encode_continuations([text]) == read.encode_continuations([text])
        assert kept.hf.encode(text) == read.hf.encode(text)
        assert kept.decode(kept.encode(text)) == read.decode(read.encode(text))


@pytest.fixture
def unread():
    """Forbids to read a tokenizer in the slow way, until it is undone."""
    patch = pytest.MonkeyPatch()

    def forbid():
        for name in ("tokenizer_from_metadata", "checked_files"):
            patch.setattr(module, name, lambda *a, **k: pytest.fail("read again"))
        return patch

    yield forbid
    patch.undo()


def a_file(place, hf):
    """A tokenizer in a GGUF file."""
    return describe(hf, pre="gpt-2").write(place.with_suffix(".gguf"))


def a_folder(place, hf):
    """A tokenizer in a folder, beside its model's config.json."""
    Tokenizer(hf).save(place)
    rows = len(Tokenizer(hf).vocabulary)
    (place / "config.json").write_text(json.dumps({"vocab_size": rows, "eos_token_id": [1, 2]}))
    return place


@pytest.mark.parametrize("written", [a_file, a_folder])
@pytest.mark.parametrize("kind", [byte_level, sentencepiece_like])
def test_a_tokenizer_is_kept(tmp_path, keeping, unread, written, kind):
    path = written(tmp_path / "model", with_template(kind(), "chatml"))
    read = load_tokenizer(path)
    again = unread()
    kept = load_tokenizer(path)
    again.undo()
    check_equal(kept, read)
    turns = [{"role": "user", "content": "the cat </s> sat"}]
    assert prompt_format(kept).encode(turns) == prompt_format(read).encode(turns)


@pytest.mark.parametrize("written", [a_file, a_folder])
def test_a_kept_tokenizer_is_saved_as_the_one_that_was_read(tmp_path, keeping, written):
    path = written(tmp_path / "model", with_template(byte_level(), "chatml"))
    for name in ("read", "kept"):
        load_tokenizer(path).save(tmp_path / name)
    for file in (tmp_path / "read").iterdir():
        assert (tmp_path / "kept" / file.name).read_bytes() == file.read_bytes()


def test_a_kept_tokenizer_without_its_arrays_is_made_anew(tmp_path, keeping):
    path = describe(byte_level(), pre="gpt-2").write(tmp_path / "model.gguf")
    read = load_tokenizer(path)
    place = kept_tokenizer.place_of([path])
    arrays, about = place.read(lambda *found: found)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    lost = {name: array for name, array in arrays.items() if name != "ends"}
    for found, said in ((lost, about), (arrays, {**about, "unknown": 1})):
        place.path.unlink()
        place.keep(found, said)
        with pytest.warns(UserWarning, match="holds something else than expected.*made anew"):
            again = load_tokenizer(path)
        check_equal(again, read)
        assert place.path.exists()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_folder_that_changed_is_read_again(tmp_path, keeping, name):
    path = a_folder(tmp_path / "model", byte_level())
    load_tokenizer(path)
    (path / name).write_text("[]")
    with pytest.raises(InputError, match=name):
        load_tokenizer(path)


def test_a_folder_that_changed_meanwhile_is_not_taken_for_the_one_that_was_loaded(
    tmp_path, keeping
):
    path = a_folder(tmp_path / "model", byte_level())
    for name, text in (("config.json", "{}"), ("added_tokens.json", "{}")):
        load_tokenizer(path)
        kept = load_tokenizer(path)
        (path / name).write_text(text)
        with pytest.raises(InputError, match="has changed since it was loaded"):
            kept.hf  # noqa: B018 (it is read now)


def test_a_folder_that_gets_a_file_while_it_is_read_is_not_kept(tmp_path, keeping, monkeypatch):
    path = a_folder(tmp_path / "model", byte_level())

    def read(folder):
        (folder / "added_tokens.json").write_text("{}")
        return checked_files(folder)

    checked_files = module.checked_files
    monkeypatch.setattr(module, "checked_files", read)
    load_tokenizer(path)
    assert not list(keeping.glob("*.safetensors"))


def test_a_small_tokenizer_of_a_folder_is_not_kept(tmp_path, keeping, monkeypatch):
    monkeypatch.setattr(tokenizer_file, "WORTH_KEEPING", 1 << 20)
    load_tokenizer(a_folder(tmp_path / "model", byte_level()))
    assert not keeping.exists()


def test_rows_cut_a_kept_tokenizer_too(tmp_path, keeping):
    path = describe(byte_level(), pre="gpt-2").write(tmp_path / "model.gguf")
    rows = len(load_tokenizer(path).vocabulary)
    with pytest.raises(InputError, match=f"{rows - 1} rows"):
        load_tokenizer(path, rows=rows - 1)


@pytest.mark.parametrize("written", [a_file, a_folder])
def test_a_kept_tokenizer_needs_no_transformers(tmp_path, keeping, written):
    path = written(tmp_path / "model", sentencepiece_like())
    ids = load_tokenizer(path).encode(CORPUS[0])
    program = (
        "import sys; from onceedit_jax.storage import converted, gguf_parts;"
        "from onceedit_jax.text import tokenizer, tokenizer_file;"
        "gguf_parts.LARGE = tokenizer_file.WORTH_KEEPING = 1;"
        f"print(tokenizer.load_tokenizer({str(path)!r}).encode({CORPUS[0]!r}));"
        "print('transformers' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == [str(ids), "False"]
