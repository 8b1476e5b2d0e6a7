"""How text crosses from one tokenizer to another, so that two models always see the same text.

What one model has written reaches the other as bytes after the prompt's bytes, and the other's
tokenizer writes the whole anew. So a word that the first model spells in three tokens is the single
token the second was trained on, and half a character stays half a character.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bridge:
    """The way from the tokens of `source` to the tokens of `dest`."""

    source: Tokenizer
    dest: Tokenizer

    def cross(self, prompt: str, continuation_ids: Iterable[int]) -> list[int]:
        """The text `source` sees, as `dest` writes it.

        Args:
          prompt: the text both models were given.
          continuation_ids: what `source` has written after it; special tokens are no text.

        Returns:
          `dest`'s tokens of the prompt and the continuation, its BOS included.
        """
        written = self.source.decode_bytes(continuation_ids, continuation=True)
        return self.dest.encode_bytes(prompt.encode("utf-8") + written)

    def first_tokens(self) -> NDArray[np.int32]:
        """For every source token, the dest token that starts its text in mid-text.

        A token whose bytes are one dest token goes there; any other goes to the first token of its
        bytes as `dest` writes them. The source's end token goes to the dest's end token.

        Returns:
          int32 [V_source]; -1 for other special tokens and for text `dest` has no token for.
        """
        pieces, shared = self.source.vocabulary.bytes, self.dest.vocabulary.ids_by_bytes
        first = np.array([shared.get(piece, -1) for piece in pieces], dtype=np.int32)
        texts: dict[int, str] = {}
        for i in np.flatnonzero(first < 0).tolist():
            piece = pieces[i]
            try:
                texts[i] = piece.decode("utf-8")
            except UnicodeDecodeError:
                ids = self.dest.encode_bytes(piece, continuation=True)
                first[i] = ids[0] if ids else -1
        written = self.dest.encode_continuations(list(texts.values()))
        for i, ids in zip(texts, written, strict=True):
            first[i] = ids[0] if ids else -1
        first[self.source.end_id] = self.dest.end_id
        return first
