"""The plug-in drafts text, and the target's tokenizer reads it: no word is split in two ways.

Token by token, one vocabulary's " Wash" meets the other's " Washington" and both lose. Text has no
such borders: the plug-in's greedy continuation is kept as bytes, and what it proposes for the next
token is the next token of the target's own reading of (text so far + draft).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.decoding.prefix_batching import shared_batch
from onceedit_jax.decoding.stopping import draft_endings
from onceedit_jax.distributed.mesh import mesh_of, to_host
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer

DRAFT_TOKENS = 32  # plug-in tokens a draft holds at most
FIRST_TOKENS = 8  # of them, written at first where the rest is seldom read
ROWS = 32  # drafts made at once


@dataclasses.dataclass(frozen=True)
class Draft:
    """A greedy continuation.

    Attributes:
      data: its bytes, whole words of them unless it is one long word.
      ends: for each of its tokens, the offset in `data` where it ends.
      probabilities: for each of its tokens, the plug-in's probability of it.
      end: probability of the end-of-answer token or new line after it; None where the draft was
        cut short.
      whole: whether there is no more of it: it ended, or has as many tokens as a draft may have.
    """

    data: bytes
    ends: tuple[int, ...]
    probabilities: tuple[float, ...]
    end: float | None
    whole: bool = True

    def probability(self, start: int, stop: int) -> float:
        """The plug-in's probability of `data[start:stop]`: of the tokens that begin there."""
        begins = (0, *self.ends[:-1])
        inside = [p for b, p in zip(begins, self.probabilities, strict=True) if start <= b < stop]
        return float(np.prod(inside)) if inside else 1.0


class _Written(NamedTuple):
    """What the plug-in has written after a text: tokens, their probabilities, that of an end."""

    tokens: list[int]
    chances: list[float]
    end: float | None

    @property
    def whole(self) -> bool:
        return self.end is not None or len(self.tokens) == DRAFT_TOKENS


class Drafter:
    """Makes drafts, and remembers them: they depend on the text alone, not on the target."""

    def __init__(self, params: Any, config: ModelConfig, tokenizer: Tokenizer) -> None:
        """Args: the plug-in."""
        self.params, self.config, self.tokenizer = params, config, tokenizer
        self._known: dict[bytes, _Written] = {}
        self._endings = draft_endings(tokenizer, config.vocab_size)

    def forget(self) -> None:
        """Forget all drafts: they are worth keeping from target to target, not for ever."""
        self._known.clear()

    def drafts(self, texts: Sequence[bytes], *, whole: bool) -> list[Draft]:
        """The plug-in's greedy continuation of each text.

        Args:
          texts: what is continued.
          whole: write drafts to their end. Otherwise `FIRST_TOKENS` will do for now; asked again,
            with `whole`, such a draft goes on as if it had never paused.
        """
        for missing, steps in self._missing(set(texts), whole=whole):
            for start in range(0, len(missing), ROWS):
                self._write(missing[start : start + ROWS], steps)
        return [self._draft(self._known[text]) for text in texts]

    def _missing(self, texts: set[bytes], *, whole: bool) -> list[tuple[list[bytes], int]]:
        """Texts to write on, and by how many tokens."""
        fresh = sorted(texts - self._known.keys(), key=_by_length)
        found = [(fresh, DRAFT_TOKENS if whole else FIRST_TOKENS)]
        if whole:
            paused = [text for text in texts & self._known.keys() if not self._known[text].whole]
            found.append((sorted(paused, key=_by_length), DRAFT_TOKENS - FIRST_TOKENS))
        return found

    def _write(self, texts: Sequence[bytes], steps: int) -> None:
        earlier = [self._known.get(text, _Written([], [], None)) for text in texts]
        rows = [
            self.tokenizer.encode_bytes(text) + written.tokens
            for text, written in zip(texts, earlier, strict=True)
        ]
        self.config.check_length(max(map(len, rows)) + steps)
        found = greedy_continuation(
            self.params,
            self.config,
            *shared_batch(mesh_of(self.params), rows, largest=ROWS),
            self._endings,
            steps=steps,
        )
        every = (to_host(array).tolist() for array in found)
        for text, written, tokens, chances, count, stopped in zip(
            texts, earlier, *every, strict=False
        ):
            self._known[text] = _Written(
                written.tokens + tokens[:count],
                written.chances + chances[:count],
                chances[count] if stopped else None,
            )

    def _draft(self, written: _Written) -> Draft:
        tokens, chances, end = written
        pieces = [self.tokenizer.decode_bytes([token], continuation=True) for token in tokens]
        data = b"".join(pieces)
        if end is None:  # cut short: the last word may not be whole
            if b" " in data[1:]:
                data = data[: data.rindex(b" ")]
            elif not written.whole:
                data = b""
        offsets = np.cumsum([len(piece) for piece in pieces]).tolist()
        kept = [i for i, offset in enumerate(offsets) if offset - len(pieces[i]) < len(data)]
        return Draft(
            data,
            tuple(min(offsets[i], len(data)) for i in kept),
            tuple(chances[i] for i in kept),
            end,
            written.whole,
        )


class DraftReader:
    """What the drafts propose to one target, row by row, while its rows grow.

    A draft is drawn anew only when it is used up or an accepted token leaves it.
    """

    def __init__(
        self, drafter: Drafter, target: Tokenizer, prompts: Sequence[str], *, whole: bool = True
    ) -> None:
        """Begin with nothing written.

        Args:
          drafter: where drafts come from.
          target: who reads them.
          prompts: of the B rows.
          whole: draw whole drafts. Where the true tokens are fed, most drafts are left after a word
            or two: there they are drawn in two parts, the second where the first was used up.
        """
        self.drafter, self.target, self.whole = drafter, target, whole
        self.texts = [prompt.encode("utf-8") for prompt in prompts]
        self.accepted = [0] * len(prompts)
        self.used = [0] * len(prompts)
        self.drafts: list[Draft | None] = [None] * len(prompts)

    def view(self, answers: Sequence[Sequence[int]]) -> dict[str, NDArray[Any]]:
        """`drafted [B]`, the next tokens (-1 for none), and the plug-in's `probability [B]`.

        Args:
          answers: B answers so far, in the target's tokens; each continues the one of the last
            call.
        """
        every = range(len(answers))
        self._follow(answers, every)
        read = [self._read(i, self.used[i]) for i in every]
        tokens, probabilities = zip(*read, strict=True)
        return {
            "drafted": np.array(tokens, np.int32),
            "probability": np.array(probabilities, np.float32),
        }

    def ahead(
        self, answers: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> list[list[tuple[int, float]]]:
        """All that the drafts of some rows propose, if every token of it is accepted in turn.

        Args:
          answers: as for `view`.
          rows: the rows asked about; other rows draw no draft.

        Returns:
          For each of `rows`, tokens and probabilities as `view` would give them one by one, up to
          where a draft would have to be drawn anew; never empty.
        """
        self._follow(answers, rows)
        return [self._read_on(i) for i in rows]

    def _follow(self, answers: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        for i, answer in enumerate(answers):
            for token in answer[self.accepted[i] :]:
                self._accept(i, self.target.decode_bytes([token], continuation=True))
            self.accepted[i] = len(answer)
        empty = [i for i in rows if self.drafts[i] is None]
        self._draw(empty, whole=self.whole)
        self._draw([i for i in rows if self._paused(i)], whole=True)

    def _draw(self, rows: Sequence[int], *, whole: bool) -> None:
        """Draw a draft where a row has none, and draw on where it has one."""
        for i in rows:
            if self.drafts[i] is None:
                self.used[i] = 0
        begun = [self.texts[i][: len(self.texts[i]) - self.used[i]] for i in rows]
        for i, draft in zip(rows, self.drafter.drafts(begun, whole=whole), strict=True):
            self.drafts[i] = draft

    def _paused(self, i: int) -> bool:
        """Whether all that was drawn of a row's draft is used, and there is more of it."""
        draft = self.drafts[i]
        return draft is not None and not draft.whole and self.used[i] == len(draft.data)

    def _read_on(self, i: int) -> list[tuple[int, float]]:
        draft, start = self.drafts[i], self.used[i]
        assert draft is not None
        steps = [self._read(i, start)]
        while steps[-1][0] not in (-1, self.target.end_id):
            piece = self.target.decode_bytes([steps[-1][0]], continuation=True)
            left = not piece or not draft.data[start:].startswith(piece)
            start += len(piece)
            if left or (start == len(draft.data) and draft.end is None):
                break
            steps.append(self._read(i, start))
        return steps

    def _accept(self, i: int, piece: bytes) -> None:
        draft, start = self.drafts[i], self.used[i]
        if draft is not None and not draft.whole:
            drawn = draft.data[start:]
            if len(piece) > len(drawn) and piece.startswith(drawn):  # goes past what is drawn
                self._draw([i], whole=True)
                draft = self.drafts[i]
        self.texts[i] += piece
        if draft is None:
            return
        self.used[i] += len(piece)
        follows = draft.data[start:].startswith(piece)
        done = self.used[i] == len(draft.data) and draft.end is None and draft.whole
        if not follows or done:
            self.drafts[i] = None

    def _read(self, i: int, start: int) -> tuple[int, float]:
        """The next token of the draft from byte `start`, and the plug-in's probability of it."""
        draft = self.drafts[i]
        assert draft is not None
        rest = draft.data[start:]
        if not rest:
            return (self.target.end_id, draft.end) if draft.end is not None else (-1, 0.0)
        token = self.target.encode_bytes(rest, continuation=True)[0]
        piece = self.target.decode_bytes([token], continuation=True)
        return token, draft.probability(start, start + len(piece))


def _by_length(text: bytes) -> tuple[int, bytes]:
    return len(text), text
