"""Where an answer ends, and where a draft ends."""

import jax.numpy as jnp
import numpy as np

from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.text.tokenizer import Tokenizer


def answer_stops(tokenizer: Tokenizer, vocab_size: int) -> StopTokens:
    """An answer ends at the end token or after its first line.

    Models without instruction tuning begin with one or two empty lines: these do not end it.

    Args:
      tokenizer: of the model that writes.
      vocab_size: V, rows of its vocabulary head, padding included.
    """
    pieces = tokenizer.vocabulary.bytes
    table = np.zeros((3, vocab_size), bool)
    table[:, : len(pieces)] = [
        [b"\n" in piece.lstrip() for piece in pieces],
        [b"\n" in piece for piece in pieces],
        [not piece.strip() for piece in pieces],
    ]
    table[:2, tokenizer.end_id] = True
    return StopTokens(*map(jnp.asarray, table))


def draft_stops(tokenizer: Tokenizer, vocab_size: int) -> StopTokens:
    """A draft ends at the end token or at any newline, because it continues a text.

    Arguments are those of `answer_stops`.
    """
    stops = answer_stops(tokenizer, vocab_size)
    return stops._replace(at_start=stops.in_text)


class Answer:
    """An answer while it is written.

    Attributes:
      tokens: its tokens so far.
      ended: whether it has ended.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args: the tokenizer of the model that writes it."""
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.ended = False

    def add(self, token: int) -> None:
        """Add a token, unless it ends the answer or the answer has ended."""
        self.ended = self.ended or self._ends(token)
        if not self.ended:
            self.tokens.append(token)

    @property
    def is_blank(self) -> bool:
        """Whether it holds only blanks so far."""
        return not self.tokenizer.decode_bytes(self.tokens, continuation=True).strip()

    def _ends(self, token: int) -> bool:
        if token == self.tokenizer.end_id:
            return True
        text = self.tokenizer.decode_bytes([*self.tokens, token], continuation=True)
        return b"\n" in text.lstrip()
