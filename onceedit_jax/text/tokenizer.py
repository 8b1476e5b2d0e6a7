"""A model's tokenizer with every convention explicit: BOS, prefix space, end of answer, padding.

Text is always text: `<|endoftext|>` in a prompt is written with ordinary tokens, so that every
model reads the same characters, and control tokens appear only where this module puts them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from onceedit_jax.errors import InputError
from onceedit_jax.storage.sources import resolve
from onceedit_jax.text.gguf_tokenizer import load_gguf_tokenizer
from onceedit_jax.text.vocabulary import Vocabulary, component, steps, vocabulary

# Bytes that are not UTF-8, as Python's `surrogateescape` writes them.
_NOT_TEXT = re.compile("([\udc80-\udcff]+)")
_MALFORMED = (OSError, ValueError, KeyError, TypeError)
_PROBE = "Hello world, 12 times"


class Tokenizer:
    """How one model writes text as tokens and reads it back.

    Attributes:
      hf: the transformers fast tokenizer this one is built on; it is never changed.
      vocabulary: what every token stands for.
      bos_id: the token put before a text, None for models that use none.
      end_id: the token that ends an answer (the tokenizer's `eos_token`).
      pad_id: a token for the unused places of a batch; padding is masked by positions, so the end
        token serves where the tokenizer names no other.
    """

    def __init__(self, hf: Any):
        """Reads the conventions off a transformers fast tokenizer.

        Raises:
          InputError: a slow tokenizer, no end token, or a decoder or prefix of an unknown kind.
        """
        self.hf = hf
        self.vocabulary: Vocabulary = vocabulary(hf)
        if hf.eos_token_id is None:
            raise InputError(
                f"the tokenizer {hf.name_or_path!r} names no eos_token, so nothing could end an "
                "answer; set eos_token in its tokenizer_config.json"
            )
        self.end_id: int = hf.eos_token_id
        self.pad_id: int = hf.pad_token_id if hf.pad_token_id is not None else hf.eos_token_id
        first = hf.backend_tokenizer.encode(_PROBE).ids[0]
        self.bos_id: int | None = first if first == hf.bos_token_id else None
        self._writer, self._prefix, self._prefix_unless_space = _plain_writer(hf)

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """The tokens of a text as the model was trained to read it.

        Args:
          text: any text; names of special tokens in it are plain text.
          bos: put the model's BOS first, if it has one.

        Raises:
          InputError: the text holds a lone surrogate (half of an escaped pair in JSON).
        """
        return self._start(bos) + self._write(self._prefixed(text)).ids

    def encode_bytes(
        self, data: bytes, *, bos: bool = True, continuation: bool = False
    ) -> list[int]:
        """The tokens of any bytes; what is not UTF-8 becomes single-byte tokens.

        Bytes that are text are written in one piece, as `encode` writes it. A byte for which the
        vocabulary has no token is left out, as tokenizers themselves do (SmolLM2 has none for
        twenty-one bytes, most of them control characters or no part of UTF-8).

        Args:
          data: the bytes.
          bos: put the model's BOS first, if it has one.
          continuation: the bytes go on in the middle of a text: no BOS and no prefix space.
        """
        ids = self._start(bos and not continuation)
        pieces = _NOT_TEXT.split(data.decode("utf-8", "surrogateescape"))
        for n, piece in enumerate(pieces):
            if n % 2:
                raw = piece.encode("utf-8", "surrogateescape")
                ids += [i for i in map(self._byte_ids.get, raw) if i is not None]
            elif piece:
                ids += self._write(piece if n or continuation else self._prefixed(piece)).ids
        return ids

    def encode_pair(self, prompt: str, target: str) -> tuple[list[int], int]:
        """The tokens of `prompt + " " + target`, BOS included, and where the target starts.

        Returns:
          (ids, start): `ids[start]` is the first token that goes beyond the prompt. A token that
          straddles the boundary belongs to the target, and so does the joining space, alone or as a
          part of a word: it is what a model that has read the prompt must write next.
        """
        prefixed = self._prefixed(prompt + " " + target)
        end_of_prompt = len(prefixed) - len(target) - 1
        written = self._write(prefixed)
        ends = enumerate(end for _, end in written.offsets)
        start = next((n for n, end in ends if end > end_of_prompt), len(written.ids))
        begin = self._start(True)
        return begin + written.ids, len(begin) + start

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of many texts that each go on in mid-text: no BOS, no prefix space."""
        return [written.ids for written in self._writer.encode_batch_fast(list(texts))]

    def decode(self, ids: Iterable[int], *, continuation: bool = False) -> str:
        """The text of tokens; special tokens are skipped and broken characters read U+FFFD."""
        return self.decode_bytes(ids, continuation=continuation).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, continuation: bool = False) -> bytes:
        """The bytes of tokens, each what the vocabulary says it stands for; special tokens are b"".

        Args:
          ids: tokens; ids beyond the vocabulary (padding rows) are b"".
          continuation: the tokens go on in the middle of a text. If not, the prefix space that
            tokenizers like Llama-2's put before every text is taken off again.
        """
        pieces = self.vocabulary.bytes
        data = b"".join(pieces[i] for i in map(int, ids) if 0 <= i < len(pieces))
        return data if continuation else data.removeprefix(self._prefix.encode("utf-8"))

    def save(self, folder: str | Path) -> None:
        """Writes the tokenizer as a folder that transformers' AutoTokenizer loads."""
        self.hf.save_pretrained(str(folder))

    def _start(self, bos: bool) -> list[int]:
        return [self.bos_id] if bos and self.bos_id is not None else []

    def _prefixed(self, text: str) -> str:
        if not text or (self._prefix_unless_space and text.startswith(" ")):
            return text
        return self._prefix + text

    def _write(self, text: str) -> tokenizers.Encoding:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 20) : error.end + 20]
            raise InputError(
                f"character {error.start} of the text {around!r} is half of a surrogate pair, "
                "which is no character; repair the text where it was written"
            ) from error
        return self._writer.encode(text, add_special_tokens=False)

    @cached_property
    def _byte_ids(self) -> dict[int, int]:
        return {piece[0]: i for piece, i in self.vocabulary.ids_by_bytes.items() if len(piece) == 1}


def load_tokenizer(spec: str | Path) -> Tokenizer:
    """Loads a model's tokenizer, without torch and without running code of the model's.

    Args:
      spec: a Hugging Face folder, a hub id, a .gguf file or `demo:NAME`, as
        `models.sources.resolve` takes it.

    Raises:
      InputError: no tokenizer.json, a slow tokenizer, or a GGUF tokenizer of an unknown kind.
    """
    path = resolve(spec)
    if path.is_file():
        return Tokenizer(load_gguf_tokenizer(path))
    if not (path / "tokenizer.json").is_file():
        raise InputError(
            f"{path}: tokenizer.json is missing; save it there with "
            "transformers.AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)"
        )
    from transformers import AutoTokenizer

    try:
        hf = AutoTokenizer.from_pretrained(
            str(path), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        # The tokenizers library raises nothing more exact than Exception for a malformed file.
        if type(error) is Exception or isinstance(error, _MALFORMED):
            raise InputError(
                f"{path}: transformers cannot load tokenizer.json ({error}); it is damaged or of "
                "another version, so fetch it again"
            ) from error
        raise
    return Tokenizer(hf)


def _plain_writer(hf: Any) -> tuple[tokenizers.Tokenizer, str, bool]:
    """A tokenizer that writes text and nothing else, the prefix it lacks, and the prefix's rule.

    The writer shares the model with `hf` but knows no special tokens, puts in no BOS, never
    truncates, and adds no prefix space: that is returned, to be put before whole texts only, and
    (True) only before those that do not begin with a space.

    Raises:
      InputError: the writer plus prefix would write otherwise than `hf` does.
    """
    backend = hf.backend_tokenizer
    writer = tokenizers.Tokenizer(backend.model)
    prefix, unless_space = "", False
    normalizers = steps(component(backend.normalizer), "normalizers")
    for step in normalizers:
        if step["type"] == "Prepend":
            prefix = step["prepend"].replace("▁", " ")
    normalizers = [step for step in normalizers if step["type"] != "Prepend"]
    splitters = steps(component(backend.pre_tokenizer), "pretokenizers")
    for step in splitters:
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            prefix, unless_space, step["prepend_scheme"] = " ", True, "never"
        if step["type"] == "ByteLevel" and step.get("add_prefix_space"):
            prefix, unless_space, step["add_prefix_space"] = " ", True, False
    skeleton = tokenizers.Tokenizer.from_str(
        json.dumps(
            {
                "version": "1.0",
                "added_tokens": [],
                "normalizer": {"type": "Sequence", "normalizers": normalizers},
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters},
                "model": {"type": "BPE", "vocab": {}, "merges": []},
            }
        )
    )
    if normalizers:
        writer.normalizer = skeleton.normalizer
    if splitters:
        writer.pre_tokenizer = skeleton.pre_tokenizer
    own = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder().values()
    writer.add_tokens([token for token in added if not token.special and token.content in own])
    if writer.encode(prefix + _PROBE).ids != backend.encode(_PROBE, add_special_tokens=False).ids:
        raise InputError(
            f"the tokenizer {hf.name_or_path!r} changes what it reads in a way that is not known "
            "here (a normalizer or a prefix), so texts could not be cut and joined faithfully"
        )
    return writer, prefix, unless_space
