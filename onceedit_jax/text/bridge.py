"""How text crosses from one tokenizer to another, so that two models always see the same text.

What one model has written reaches the other as bytes after the prompt's bytes, and the other's
tokenizer writes the whole anew. So a word that the first model spells in three tokens is the single
token the second was trained on, and half a character stays half a character.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.distributed.bucketing import pad_rows
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
        first = [shared.get(piece, -1) for piece in pieces]
        missing = [i for i, token in enumerate(first) if token < 0]
        for i, ids in zip(missing, self._written(missing), strict=True):
            first[i] = ids[0] if ids else -1
        first[self.source.end_id] = self.dest.end_id
        return np.array(first, np.int32)

    def spellings(self, most: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """How `dest` writes the text of every source token in mid-text.

        Args:
          most: dest tokens a spelling has at most.

        Returns:
          int32 [V_source, M] tokens, right-padded with 0, M being `most` or the longest spelling if
          that is shorter; and int32 [V_source], how many there are: 0 for special tokens, for text
          `dest` has no token for, and for text that takes more than `most`.
        """
        written = self._written(range(len(self.source.vocabulary)))
        kept = [ids if len(ids) <= most else [] for ids in written]
        counts = [len(ids) for ids in kept]
        return pad_rows(kept, width=max(1, *counts)), np.array(counts, np.int32)

    def _written(self, tokens: Sequence[int]) -> list[list[int]]:
        """The text of source tokens, each as `dest` writes it in mid-text."""
        pieces, found = self.source.vocabulary.bytes, dict[int, list[int]]()
        texts: dict[int, str] = {}
        for i in tokens:
            try:
                texts[i] = pieces[i].decode("utf-8")
            except UnicodeDecodeError:
                found[i] = self.dest.encode_bytes(pieces[i], continuation=True)
        written = self.dest.encode_continuations(list(texts.values()))
        found.update(zip(texts, written, strict=True))
        return [found[i] for i in tokens]
