"""Where an answer ends, and where a draft does."""

import jax.numpy as jnp
import numpy as np

from onceedit_jax.decoding.greedy import Endings
from onceedit_jax.text.tokenizer import Tokenizer


def answer_endings(tokenizer: Tokenizer, vocab_size: int) -> Endings:
    """An answer ends at the end token or with its first line.

    Models that were never taught to answer begin with an empty line or two: these are no end.
    """
    pieces = tokenizer.vocabulary.bytes
    table = np.zeros((3, vocab_size), bool)
    table[:, : len(pieces)] = [
        [b"\n" in piece.lstrip() for piece in pieces],
        [b"\n" in piece for piece in pieces],
        [not piece.strip() for piece in pieces],
    ]
    table[:2, tokenizer.end_id] = True
    return Endings(*map(jnp.asarray, table))


def draft_endings(tokenizer: Tokenizer, vocab_size: int) -> Endings:
    """A draft ends at the end token or at any new line: it goes on with text that has begun."""
    found = answer_endings(tokenizer, vocab_size)
    return found._replace(at_start=found.in_text)


class Answer:
    """An answer while it is written: its tokens, and whether it has ended."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Args: the tokenizer of the model that writes it."""
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.ended = False

    def add(self, token: int) -> None:
        """Write one token more, unless it ends the answer."""
        self.ended = self.ended or self._ends(token)
        if not self.ended:
            self.tokens.append(token)

    @property
    def is_blank(self) -> bool:
        """Whether nothing but blanks is written yet."""
        return not self.tokenizer.decode_bytes(self.tokens, continuation=True).strip()

    def _ends(self, token: int) -> bool:
        if token == self.tokenizer.end_id:
            return True
        text = self.tokenizer.decode_bytes([*self.tokens, token], continuation=True)
        return b"\n" in text.lstrip()
