"""Where an answer ends, and where a draft ends."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.text.words import is_unspaced


def answer_stops(format: PromptFormat, vocab_size: int) -> StopTokens:
    """An answer ends at an end token or, in plain text, after its first line.

    Models without instruction tuning begin with one or two empty lines: these do not end it.

    Args:
      format: how the model that writes is asked.
      vocab_size: V, rows of its vocabulary head, padding included.
    """
    pieces = format.tokenizer.vocabulary.bytes
    table = np.zeros((3, vocab_size), bool)
    table[2, : len(pieces)] = [not piece or piece.isspace() for piece in pieces]
    if format.one_line:
        for i, piece in enumerate(pieces):
            if b"\n" in piece:
                table[:2, i] = b"\n" in piece.lstrip(), True
    table[:2, list(format.end_ids)] = True
    return StopTokens(*map(jnp.asarray, table))


def text_stops(format: PromptFormat, vocab_size: int, until: Sequence[str]) -> StopTokens:
    """A text ends at an end token, and where a token begins with one of some texts.

    A token that has such a text after its beginning does not end it, so that what comes before is
    not lost: cut the text there afterwards.

    Args:
      format: how the model that writes is asked.
      vocab_size: as for `answer_stops`.
      until: the texts.
    """
    beginnings = tuple(text.encode() for text in until if text)
    pieces = format.tokenizer.vocabulary.bytes
    ends = np.zeros(vocab_size, bool)
    ends[: len(pieces)] = [piece.startswith(beginnings) for piece in pieces]
    ends[list(format.end_ids)] = True
    return StopTokens(*map(jnp.asarray, (ends, ends, np.zeros(vocab_size, bool))))


def draft_stops(format: PromptFormat, vocab_size: int) -> StopTokens:
    """A draft ends at an end token or at any newline, because it continues a text.

    Arguments are those of `answer_stops`; the format is that of plain text.
    """
    stops = answer_stops(format, vocab_size)
    return stops._replace(at_start=stops.in_text)


def glued_tokens(format: PromptFormat, vocab_size: int) -> Bool[np.ndarray, "vocab"]:
    """Tokens that would continue the word before them, `[V]`; arguments as for `answer_stops`."""
    pieces = format.tokenizer.vocabulary.bytes
    glued = np.zeros(vocab_size, bool)
    glued[: len(pieces)] = [continues_word(piece) for piece in pieces]
    return glued


def continues_word(piece: bytes) -> bool:
    """Whether bytes begin with a letter or a digit, or inside a character of several bytes."""
    return piece[:1].isalnum() or piece[:1] >= b"\x80"


def ends_word(text: bytes) -> bool:
    """Whether a text ends with a letter or a digit of a script that has spaces between words."""
    last = text[-4:].decode("utf-8", "ignore")[-1:]
    return last.isalnum() and not is_unspaced(last)


class Answer:
    """An answer while it is written.

    Attributes:
      tokens: its tokens so far.
      ended: whether it has ended.
    """

    def __init__(self, format: PromptFormat) -> None:
        """Args: how the model that writes it is asked."""
        self.format = format
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
        return not self._text(self.tokens).strip()

    def _ends(self, token: int) -> bool:
        if token in self.format.end_ids:
            return True
        return self.format.one_line and b"\n" in self._text([*self.tokens, token]).lstrip()

    def _text(self, tokens: list[int]) -> bytes:
        return self.format.tokenizer.decode_bytes(tokens, continuation=True)
