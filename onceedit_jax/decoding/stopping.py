"""Where an answer ends, and where a draft ends."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.decoding.text_writer import TextWriter
from onceedit_jax.distributed.bucketing import bucket
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.text.words import is_unspaced

PLACES = 256  # bounds the table [PLACES, V] of texts that end a row
NOTHING = 256  # after the bytes 0 to 255


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


def text_stops(format: PromptFormat, vocab_size: int) -> StopTokens:
    """A text ends at an end token, and when one of `format.until` is complete.

    The token that completes such a text is written, because its beginning may come before it: cut
    the text there afterwards, see `text_of`. Arguments are those of `answer_stops`.
    """
    ends = np.zeros(vocab_size, bool)
    ends[list(format.end_ids)] = True
    pieces = format.tokenizer.vocabulary.bytes
    progress = progress_table(pieces, format.until, vocab_size) if format.until else None
    stops = StopTokens(ends, ends, np.zeros(vocab_size, bool), progress)
    found: StopTokens = jax.tree.map(jnp.asarray, stops)
    return found


def text_of(format: PromptFormat, answer: Sequence[int]) -> str:
    """An answer in tokens as a text with its spaces, without what `format.until` ends.

    The texts cut it one after another, in their order: so does the lm-evaluation-harness.
    """
    data = format.tokenizer.decode_bytes(answer, continuation=True)
    text = data.decode("utf-8", "replace")
    for stop in format.until:
        text = text.partition(stop)[0]
    return text


def progress_table(
    pieces: Sequence[bytes], until: Sequence[str], vocab_size: int
) -> Int[np.ndarray, "places vocab"]:
    """`StopTokens.progress`: how tokens bring a text nearer to one of some texts that end it.

    Args:
      pieces: the bytes of each token.
      until: the texts, none empty. A text that would make more than `PLACES` beginnings of those so
        far is left out; it has to be looked for afterwards.
      vocab_size: V; tokens without bytes leave a row where it is.
    """
    ends, known = list[bytes](), {b""}
    for text in (text.encode() for text in until):
        longer = known | {text[:length] for length in range(len(text))}
        if len(longer) < PLACES:
            ends, known = [*ends, text], longer
    places = {start: place for place, start in enumerate(sorted(known, key=lambda s: (len(s), s)))}
    height = bucket(len(places) + 1, smallest=2)
    # Where each byte leads; NOTHING, beyond the bytes, fills up the tokens and leads nowhere.
    after = np.zeros((len(places), NOTHING + 1), np.int16)
    after[:, NOTHING] = np.arange(len(places))
    after = np.concatenate([after, np.full((height - len(places), NOTHING + 1), height - 1)])
    for start, place in places.items():
        for byte in set(b"".join(ends)):
            text = start + bytes([byte])
            suffixes = (text[skip:] for skip in range(len(text) + 1))
            is_whole = text.endswith(tuple(ends))
            longest = next(suffix for suffix in suffixes if suffix in places)
            after[place, byte] = height - 1 if is_whole else places[longest]
    spelled = _spelled(pieces, vocab_size)
    table = np.full((height, vocab_size), height - 1, np.int16)
    table[0], first = _led(after, 0, spelled), spelled[:, 0]
    for place in range(1, len(places)):
        # Few first bytes lead elsewhere than from the place 0.
        some = np.flatnonzero(after[place, first] != after[0, first])
        table[place] = table[0]
        table[place, some] = _led(after, place, spelled[some])
    return table


def _led(
    after: Int[np.ndarray, "places bytes"], place: int, spelled: Int[np.ndarray, "tokens length"]
) -> Int[np.ndarray, "tokens"]:
    """The places `[N]` after a place and each of N tokens."""
    reached = np.full(len(spelled), place, np.int16)
    for column in spelled.T:
        reached = after[reached, column]
    return reached


def _spelled(pieces: Sequence[bytes], vocab_size: int) -> Int[np.ndarray, "vocab length"]:
    """The bytes of tokens, `[V, L]`, filled up with `NOTHING`."""
    lengths = np.zeros(vocab_size, int)
    lengths[: len(pieces)] = [len(piece) for piece in pieces]
    table = np.full((vocab_size, max(1, lengths.max())), NOTHING, np.int16)
    columns = np.arange(table.shape[1])
    table[columns < lengths[:, None]] = np.frombuffer(b"".join(pieces), np.uint8)
    return table


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
        self._writer = TextWriter(format.until)

    def add(self, token: int) -> None:
        """Add a token, unless it ends the answer or the answer has ended.

        The token that completes one of `format.until` is added, and then the answer has ended.
        """
        self.ended = self.ended or self._ends(token)
        if not self.ended:
            self.tokens.append(token)
            self._writer.add(self._text([token]))
            self.ended = self._writer.stopped

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


def places_of(answers: Sequence[Answer], stops: StopTokens) -> Int[Array, "answers"] | None:
    """Where answers that go on stand in `stops.progress`; None if there is none."""
    if stops.progress is None:
        return None
    progress = to_host(stops.progress)
    places = [0] * len(answers)
    for i, answer in enumerate(answers):
        for token in answer.tokens:
            places[i] = int(progress[places[i], token])
    return jnp.asarray(places, jnp.int32)
