"""The vocabulary of a tokenizer: the string and bytes of each token, and which tokens are special.

The bytes follow from the tokenizer's own decoder. So the tokens of two models can be compared by
their bytes (the `bytes` anchor rule), and text can be cut and joined at any byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool

from onceedit_jax.errors import InputError

Bytes = bytes  # inside the class, `Vocabulary.bytes` hides the builtin
TokenMask = Bool[np.ndarray, " tokens"]
_MARKER = re.compile(r"<[^<>\s]+>")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of one tokenizer, ids 0 to N - 1.

    Attributes:
      strings: the string of each token in the tokenizer; None for ids without a token.
      bytes: the bytes that each token stands for; b"" for special, padding and missing tokens.
      special: True for control and padding tokens, and for ids without a token.
      byte_fallback: True for tokens that stand for one byte of a character without a token of its
        own (in SentencePiece-like models); None if there are none.
      control: True for the begin, end and unknown tokens; None if there are none.
      added: True for words that were added to the model's own pieces; None if there are none.
    """

    strings: tuple[str | None, ...]
    bytes: tuple[Bytes, ...]
    special: TokenMask
    byte_fallback: TokenMask | None = None
    control: TokenMask | None = None
    added: TokenMask | None = None

    def __len__(self) -> int:
        return len(self.strings)

    def cut(self, rows: int) -> Vocabulary:
        """The tokens that have one of so many rows of an embedding table.

        Raises:
          InputError: a token that stands for text has no row.
        """
        if rows >= len(self):
            return self
        if beyond := [i for i in range(rows, len(self)) if not self.special[i]]:
            raise InputError(
                f"token {self.strings[beyond[0]]!r} has id {beyond[0]}, and the embedding has "
                f"{rows} rows; expected a row for every token of plain text: enlarge it with "
                "resize_token_embeddings of transformers and save the model, or use the tokenizer "
                "that belongs to it"
            )
        return Vocabulary(
            self.strings[:rows],
            self.bytes[:rows],
            self.special[:rows],
            *(m if m is None else m[:rows] for m in (self.byte_fallback, self.control, self.added)),
        )

    @cached_property
    def ids_by_bytes(self) -> dict[Bytes, int]:
        """{bytes: id of the token that stands for them}, without special tokens.

        If several tokens stand for the same bytes, it is the one that the tokenizer uses: an added
        word rather than a piece, and a piece rather than a byte-fallback token (Llama 2 encodes `A`
        as 29909, never as `<0x41>`, 68); among equals, the lower id.
        """
        none = np.zeros(len(self), dtype=np.bool_)
        fallback = none if self.byte_fallback is None else self.byte_fallback
        added = none if self.added is None else self.added
        rank = fallback.astype(np.int8) - added
        order = np.lexsort((np.arange(len(self)), rank))[::-1].tolist()
        return {self.bytes[i]: i for i in order if self.bytes[i] and not self.special[i]}

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """{string: id} of the control tokens."""
        mask = self.control if self.control is not None else np.zeros(len(self), dtype=np.bool_)
        return {
            string: i for i, string in enumerate(self.strings) if mask[i] and string is not None
        }


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer.

    A token is special if the tokenizer marks it as special. So is a marker that was added to the
    model's own vocabulary: a token in angle brackets, such as `<tool_call>` or the padding
    `<|extratoken_1|>`. Other added tokens are words, and stand for their own text.

    Args:
      tokenizer: a fast tokenizer of transformers, or a `Tokenizer` of this package.

    Raises:
      InputError: the tokenizer is not a fast one, or its decoder is not supported.
    """
    if isinstance(known := getattr(tokenizer, "vocabulary", None), Vocabulary):
        return known
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"expected a fast tokenizer, found a {type(tokenizer).__name__}; load the model's "
            "tokenizer.json with transformers.AutoTokenizer"
        )
    own = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    ids = {**own, **{token.content: i for i, token in added.items()}}
    words = added_words(tokenizer)
    marked = added.keys() - words.keys() | set(tokenizer.all_special_ids)
    decoder, has_byte_tokens = _piece_decoder(component(backend.decoder))

    size = max(ids.values(), default=-1) + 1
    strings: list[str | None] = [None] * size
    pieces = [b""] * size
    special = np.ones(size, dtype=np.bool_)
    byte_fallback = np.zeros(size, dtype=np.bool_)
    control = np.zeros(size, dtype=np.bool_)
    roles = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    control[[i for i in roles if i is not None]] = True
    beside = np.zeros(size, dtype=np.bool_)
    beside[[i for i, token in words.items() if token.content not in own]] = True
    for string, i in ids.items():
        strings[i] = string
        if i not in marked:
            special[i] = False
            byte_fallback[i] = has_byte_tokens and _BYTE_TOKEN.fullmatch(string) is not None
            pieces[i] = decoder(string) if string in own else string.encode("utf-8")
    return Vocabulary(tuple(strings), tuple(pieces), special, byte_fallback, control, beside)


def added_words(tokenizer: Any) -> dict[int, Any]:
    """The added tokens of a fast tokenizer that are text, by id; the others are special."""
    backend, roles = tokenizer.backend_tokenizer, set(tokenizer.all_special_ids)
    return {
        i: token
        for i, token in backend.get_added_tokens_decoder().items()
        if not token.special and i not in roles
        if is_piece(backend, token.content) or not _MARKER.fullmatch(token.content)
    }


def is_piece(backend: Any, content: str) -> bool:
    """Whether a token is one of the model's own pieces; quicker than its whole vocabulary."""
    return backend.model.token_to_id(content) is not None


def component(part: Any) -> dict[str, Any]:
    """The JSON of a tokenizer's normalizer, pre-tokenizer or decoder; {} for None."""
    values: dict[str, Any] = {} if part is None else json.loads(part.__getstate__())
    return values


def steps(part: dict[str, Any], nested: str) -> list[dict[str, Any]]:
    """The steps of a tokenizer component in order; sequences (under the key `nested`) are flat."""
    if part.get("type") != "Sequence":
        return [part] if part else []
    return [step for inner in part[nested] for step in steps(inner, nested)]


def byte_alphabet() -> dict[str, int]:
    """{printable character: the byte it stands for} in GPT-2's byte-level vocabularies.

    Printable Latin-1 characters stand for themselves; U+0100 and up stand, in order, for the other
    bytes.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    shifted = {chr(0x100 + n): byte for n, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


def _piece_decoder(decoder: dict[str, Any]) -> tuple[Callable[[str], bytes], bool]:
    """A function from a token to its bytes, and whether `<0xNN>` tokens stand for single bytes."""
    replaces: list[tuple[str, str]] = []
    byte_level = byte_tokens = fused = False
    for step in steps(decoder, "decoders"):
        match step:
            case {"type": "ByteLevel"}:
                byte_level = True
            case {"type": "ByteFallback"}:
                byte_tokens = True
            case {"type": "Replace", "pattern": {"String": mark}, "content": content}:
                replaces.append((mark, content))
            case {"type": "Metaspace", "replacement": mark}:
                replaces.append((mark, " "))
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip"} if fused:
                pass  # removes the prefix space from whole texts, not from tokens
            case _:
                raise InputError(
                    f"the tokenizer's decoder has a step {step.get('type')!r}, which is not "
                    "supported; expected a byte-level (GPT-2) or SentencePiece-like (Replace, "
                    "ByteFallback, Metaspace) decoder: choose another model"
                )
    if not (byte_level or replaces or byte_tokens):
        raise InputError(
            "the tokenizer has no decoder that gives the bytes of its tokens; expected a "
            "byte-level (GPT-2) or SentencePiece-like decoder: choose another model"
        )
    alphabet = byte_alphabet()
    characters = str.maketrans({character: chr(byte) for character, byte in alphabet.items()})
    is_byte_level = re.compile(f"[{re.escape(''.join(alphabet))}]*").fullmatch

    def decode(token: str) -> bytes:
        if byte_tokens and token.startswith("<0x") and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(match[1], 16)])
        if byte_level and is_byte_level(token):
            return token.translate(characters).encode("latin-1")
        for mark, content in replaces:
            token = token.replace(mark, content)
        return token.encode("utf-8")

    return decode, byte_tokens
