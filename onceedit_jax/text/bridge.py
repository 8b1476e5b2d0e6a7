"""The bridge translates text from one tokenizer to another, so that two models see the same text.

The text of one model is turned into bytes, which follow the bytes of the prompt, and the other
tokenizer encodes the whole anew. So a word of three tokens for the first model may be a single
token for the second, and an incomplete character stays incomplete.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32

from onceedit_jax.distributed.bucketing import pad_rows
from onceedit_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bridge:
    """Translation from the tokens of `source` to the tokens of `dest`.

    Attributes:
      source: the tokenizer of the model that writes.
      dest: the tokenizer of the model that reads.
      spaced: whether a continuation begins with the space that joins it to the prompt. If not, as
        in an answer in chat, the space is added.
    """

    source: Tokenizer
    dest: Tokenizer
    spaced: bool = True

    def cross(self, prompt: str, continuation_ids: Iterable[int]) -> list[int]:
        """The tokens of `dest` for a prompt and its continuation, BOS included.

        Args:
          prompt: the text that the model of `dest` continues.
          continuation_ids: tokens of `source` after the prompt; special tokens are skipped.
        """
        continuation = self.source.decode_bytes(continuation_ids, continuation=True)
        if not self.spaced and continuation and not continuation[:1].isspace():
            continuation = b" " + continuation
        return self.dest.encode_bytes(prompt.encode("utf-8") + continuation)

    def first_tokens(self) -> Int32[np.ndarray, " source_vocab"]:
        """For every source token, the first dest token of its text within a text.

        If one dest token has the same bytes, it is that one. The end token of the source maps to
        the end token of the dest.

        Returns:
          Token ids; -1 for other special tokens, and for text that has no tokens in `dest`.
        """
        pieces, shared = self.source.vocabulary.bytes, self.dest.vocabulary.ids_by_bytes
        first = [shared.get(piece, -1) for piece in pieces]
        missing = [i for i, token in enumerate(first) if token < 0]
        for i, ids in zip(missing, self._encoded(missing), strict=True):
            first[i] = ids[0] if ids else -1
        first[self.source.end_id] = self.dest.end_id
        return np.array(first, np.int32)

    def spellings(
        self, most: int
    ) -> tuple[Int32[np.ndarray, "source_vocab tokens"], Int32[np.ndarray, " source_vocab"]]:
        """The dest tokens for the text of every source token within a text.

        Args:
          most: maximum number of dest tokens for one source token.

        Returns:
          The dest tokens, right-padded with 0, and their number: 0 for special tokens, for text
          that has no tokens in `dest`, and for text of more than `most` tokens.
        """
        encoded = self._encoded(range(len(self.source.vocabulary)))
        rows = [ids if len(ids) <= most else [] for ids in encoded]
        counts = [len(ids) for ids in rows]
        return pad_rows(rows, width=max(1, *counts)), np.array(counts, np.int32)

    def _encoded(self, tokens: Sequence[int]) -> list[list[int]]:
        """The dest tokens for the text of each source token within a text."""
        pieces = self.source.vocabulary.bytes
        encoded: dict[int, list[int]] = {}
        texts: dict[int, str] = {}
        for i in tokens:
            try:
                texts[i] = pieces[i].decode("utf-8")
            except UnicodeDecodeError:
                encoded[i] = self.dest.encode_bytes(pieces[i], continuation=True)
        encoded.update(
            zip(texts, self.dest.encode_continuations(list(texts.values())), strict=True)
        )
        return [encoded[i] for i in tokens]
