"""What each token id stands for: its string, its bytes, and whether it is text at all.

The bytes are read off the tokenizer's own decoder, so that the tokens of two models can be compared
by what they stand for (the `bytes` anchor rule) and text can be cut and joined at any byte.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.errors import InputError

Bytes = bytes  # `Vocabulary.bytes` hides the builtin inside the class
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of one tokenizer, ids 0 to N - 1.

    Attributes:
      strings: token strings as the tokenizer spells them [N]; None where no token has the id.
      bytes: the bytes each token stands for [N]; b"" for special, padding and missing tokens.
      special: True for control and padding tokens and for ids without a token, bool [N].
      byte_fallback: True for the tokens a SentencePiece-like model falls back on to write a
        character it has no piece for, bool [N]; None means that there are none.
      control: True for the special tokens that begin or end a text or stand for the unknown,
        bool [N]; None means that there are none.
    """

    strings: tuple[str | None, ...]
    bytes: tuple[Bytes, ...]
    special: NDArray[np.bool_]
    byte_fallback: NDArray[np.bool_] | None = None
    control: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.strings)

    @cached_property
    def ids_by_bytes(self) -> dict[Bytes, int]:
        """The one token that stands for given bytes: {bytes: id}, special tokens left out.

        Where several tokens stand for the same bytes, a real piece comes before a byte-fallback
        token, which the tokenizer would not write there (Llama-2 writes `A` as 29909, never as
        `<0x41>`, 68); then the lower id is kept.
        """
        fallback = self.byte_fallback if self.byte_fallback is not None else [False] * len(self)
        order = sorted(range(len(self)), key=lambda i: (bool(fallback[i]), i), reverse=True)
        return {self.bytes[i]: i for i in order if self.bytes[i] and not self.special[i]}

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """{string: id} of the control tokens."""
        mask = self.control if self.control is not None else np.zeros(len(self), dtype=np.bool_)
        return {
            string: i for i, string in enumerate(self.strings) if mask[i] and string is not None
        }


def vocabulary(tokenizer: Any) -> Vocabulary:
    """Reads the vocabulary of a tokenizer.

    A token is special when the tokenizer marks it so, or when it was added outside the model's own
    vocabulary (chat markers, `<|extratoken_1|>` and other padding).

    Args:
      tokenizer: a fast tokenizer of transformers, or our `Tokenizer`.

    Raises:
      InputError: the tokenizer is a slow one, or its decoder is of a kind that is not known.
    """
    if isinstance(known := getattr(tokenizer, "vocabulary", None), Vocabulary):
        return known
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise InputError(
            f"{type(tokenizer).__name__} has no fast tokenizer behind it; load the model's "
            "tokenizer.json with transformers.AutoTokenizer"
        )
    own = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    ids = {**own, **{token.content: i for i, token in added.items()}}
    marked = {i for i, token in added.items() if token.special or token.content not in own}
    marked.update(tokenizer.all_special_ids)
    decoder, has_byte_tokens = _piece_decoder(component(backend.decoder))

    size = max(ids.values(), default=-1) + 1
    strings: list[str | None] = [None] * size
    pieces = [b""] * size
    special = np.ones(size, dtype=np.bool_)
    byte_fallback = np.zeros(size, dtype=np.bool_)
    control = np.zeros(size, dtype=np.bool_)
    roles = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    control[[i for i in roles if i is not None]] = True
    for string, i in ids.items():
        strings[i] = string
        if i not in marked:
            special[i] = False
            byte_fallback[i] = has_byte_tokens and _BYTE_TOKEN.fullmatch(string) is not None
            pieces[i] = decoder(string)
    return Vocabulary(tuple(strings), tuple(pieces), special, byte_fallback, control)


def component(part: Any) -> dict[str, Any]:
    """The JSON of a tokenizer's normalizer, pre-tokenizer or decoder; {} when it has none."""
    return {} if part is None else json.loads(part.__getstate__())


def steps(part: dict[str, Any], nested: str) -> list[dict[str, Any]]:
    """The steps of a tokenizer component in order, sequences (under the key `nested`) unrolled."""
    if part.get("type") != "Sequence":
        return [part] if part else []
    return [step for inner in part[nested] for step in steps(inner, nested)]


def byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in GPT-2's byte-level vocabularies.

    Printable Latin-1 characters stand for themselves, the other bytes, in order, for U+0100 and up.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    shifted = {chr(0x100 + n): byte for n, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


def _piece_decoder(decoder: dict[str, Any]) -> tuple[Callable[[str], bytes], bool]:
    """How one token becomes bytes, and whether `<0xNN>` tokens stand for single bytes."""
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
                pass  # takes the prefix space off whole texts, not off tokens
            case _:
                raise InputError(
                    f"the tokenizer's decoder has a step {step.get('type')!r} of an unknown kind; "
                    "known are byte-level (GPT-2) and SentencePiece-like (Replace, ByteFallback, "
                    "Metaspace) decoders"
                )
    if not (byte_level or replaces or byte_tokens):
        raise InputError(
            "the tokenizer has no byte-level or SentencePiece-like decoder, so what its tokens "
            "stand for is unknown"
        )
    alphabet = byte_alphabet()

    def decode(token: str) -> bytes:
        if byte_tokens and (found := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(found[1], 16)])
        if byte_level and all(character in alphabet for character in token):
            return bytes(alphabet[character] for character in token)
        for mark, content in replaces:
            token = token.replace(mark, content)
        return token.encode("utf-8")

    return decode, byte_tokens
