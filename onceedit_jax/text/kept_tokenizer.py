"""A model's tokenizer, kept in the cache folder: a second start computes and checks nothing anew.

Of a GGUF file, merges are computed from scores; of a folder, what transformers reads is held
against the file itself; and every token gets its bytes. That takes seconds for a vocabulary of
262,144. Importing transformers takes most of a second more, and is left until its own tokenizer
is asked for.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from onceedit_jax.storage.converted import Entry, entry
from onceedit_jax.text.vocabulary import Vocabulary, vocabulary
from onceedit_jax.types import HostArray

_LIBRARIES = ("tokenizers", "transformers")
_MASKS = ("special", "byte_fallback", "control", "added")
_ABOUT = ("roles", "all_special_ids", "chat_template", "end_ids", "rows")
_BPE = (
    "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
    "byte_fallback", "ignore_merges",
)  # fmt: skip
_ROLES = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")


@dataclass(frozen=True, eq=False)
class FastTokenizer:
    """What is read of a fast tokenizer of transformers, under the same names.

    Attributes:
      backend_tokenizer: of the tokenizers library.
      vocabulary: its tokens.
      name_or_path: where it comes from.
      roles: {name of a role, such as `eos_token_id`: the token}.
      all_special_ids: all tokens that have a role.
      chat_template: in Jinja's language; several by name, or None.
      end_ids: tokens that end an answer, by its model's files.
      rows: rows of the model's embedding, by its files; None where they do not say.
      whole: makes the tokenizer of transformers.
    """

    backend_tokenizer: tokenizers.Tokenizer
    vocabulary: Vocabulary
    name_or_path: str
    roles: dict[str, int | None]
    all_special_ids: list[int]
    chat_template: Any
    end_ids: list[int]
    rows: int | None
    whole: Callable[[], Any]

    @classmethod
    def of(cls, hf: Any, *, end_ids: list[int], rows: int | None = None) -> FastTokenizer:
        """What is read of a tokenizer."""
        return cls(
            hf.backend_tokenizer,
            vocabulary(hf),
            str(hf.name_or_path),
            {role: getattr(hf, role) for role in _ROLES},
            list(hf.all_special_ids),
            hf.chat_template,
            end_ids,
            rows,
            lambda: hf,
        )

    @cached_property
    def hf(self) -> Any:
        """The tokenizer of transformers."""
        return self.whole()

    def __getattr__(self, name: str) -> Any:
        if name in _ROLES:
            return self.roles[name]
        raise AttributeError(name)


def place_of(files: Sequence[Path], *, inside: Path | None = None) -> Entry | None:
    """Where the tokenizer that files describe is kept; None where it is not.

    Args:
      files: the files.
      inside: the folder where each has its place (default: they are one model, whatever its name).

    Raises:
      InputError: a file is not the one that it was when it was downloaded.
    """
    places = "" if inside is None else [file.relative_to(inside).as_posix() for file in files]
    return entry(files, f"tokenizer {places}", _LIBRARIES)


def read_tokenizer(
    place: Entry, source: str, whole: Callable[[FastTokenizer], Any]
) -> FastTokenizer | None:
    """The tokenizer that is kept; None for none.

    Args:
      place: where.
      source: name of its file in errors.
      whole: makes the tokenizer of transformers for it.
    """

    def make(arrays: Mapping[str, HostArray], about: Mapping[str, Any]) -> FastTokenizer:
        data, ends = arrays["bytes"].tobytes(), arrays["ends"].tolist()
        pieces = tuple(data[first:end] for first, end in zip([0, *ends], ends, strict=False))
        masks = {name: arrays[name].view(np.bool_) for name in _MASKS if name in arrays}
        strings = tuple(json.loads(arrays["strings"].tobytes()))
        fast = FastTokenizer(
            backend_tokenizer=_rebuilt(arrays, strings),
            vocabulary=Vocabulary(strings, pieces, **masks),
            name_or_path=source,
            whole=lambda: whole(fast),
            **about,
        )
        return fast

    return place.read(make)


def keep_tokenizer(place: Entry, fast: FastTokenizer) -> None:
    """Keep a tokenizer for the next start."""
    vocab = fast.vocabulary
    masks = {name: getattr(vocab, name) for name in _MASKS}
    arrays = {
        **_taken_apart(fast.backend_tokenizer, vocab.strings),
        "strings": _as_array(json.dumps(vocab.strings).encode()),
        "bytes": _as_array(b"".join(vocab.bytes)),
        "ends": np.cumsum([len(piece) for piece in vocab.bytes]).astype(np.int32),
        **{name: mask.view(np.uint8) for name, mask in masks.items() if mask is not None},
    }
    place.keep(arrays, {name: getattr(fast, name) for name in _ABOUT})


def _taken_apart(
    backend: tokenizers.Tokenizer, strings: Sequence[str | None]
) -> dict[str, HostArray]:
    """The arrays of a tokenizer: its JSON; the merges of BPE, which take long to parse, as ids."""
    text = backend.to_str()
    whole = {"tokenizer": _as_array(text.encode())}
    values = json.loads(text)
    model = values["model"]
    if model["type"] != "BPE":
        return whole
    ids = model["vocab"]
    merges = [[ids[left], ids[right]] for left, right in model["merges"]]
    model["vocab"], model["merges"] = {}, []
    apart = {
        "tokenizer": _as_array(json.dumps(values).encode()),
        "own": np.array(sorted(ids.values()), np.int32),
        "merges": np.array(merges, np.int32).reshape(-1, 2),
    }
    return apart if _rebuilt(apart, strings).to_str() == text else whole


def _rebuilt(
    arrays: Mapping[str, HostArray], strings: Sequence[str | None]
) -> tokenizers.Tokenizer:
    """The tokenizer that `_taken_apart` gave the arrays of."""
    text = arrays["tokenizer"].tobytes().decode()
    if "merges" not in arrays:
        return tokenizers.Tokenizer.from_str(text)
    values = json.loads(text)
    added, values["added_tokens"] = values["added_tokens"], []
    settings = {name: values["model"][name] for name in _BPE if values["model"].get(name)}
    backend = tokenizers.Tokenizer.from_str(json.dumps(values))
    with _without_collection():
        left, right = ([strings[i] for i in side] for side in arrays["merges"].T.tolist())
        vocab = {strings[i]: i for i in arrays["own"].tolist()}
        backend.model = tokenizers.models.BPE(
            vocab=vocab, merges=list(zip(left, right, strict=True)), **settings
        )
    backend.add_tokens(
        [tokenizers.AddedToken(**{k: token[k] for k in token if k != "id"}) for token in added]
    )
    return backend


@contextmanager
def _without_collection() -> Iterator[None]:
    """Look for no garbage meanwhile: half a million merges are none, and each search takes long."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _as_array(data: bytes) -> HostArray:
    return np.frombuffer(data, np.uint8)
