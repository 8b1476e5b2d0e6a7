"""The plug-in drafts text, and the target's tokenizer reads it: no word is split in two ways.

Token by token, one vocabulary's " Wash" meets the other's " Washington" and both lose. Text has no
such borders: the plug-in's greedy continuation is kept as bytes, and what it proposes for the next
token is the next token of the target's own reading of (text so far + draft).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onceedit_jax.ensemble.endings import draft_endings
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.greedy import greedy_continuation
from onceedit_jax.shapes import batch_of
from onceedit_jax.text.tokenizer import Tokenizer

DRAFT_TOKENS = 32  # plug-in tokens a draft holds at most
ROWS = 32  # drafts made at once


@dataclasses.dataclass(frozen=True)
class Draft:
    """A greedy continuation.

    Attributes:
      data: its bytes.
      ends: for each of its tokens, the offset in `data` where it ends.
      probabilities: for each of its tokens, the plug-in's probability of it.
      end: probability of the end-of-answer token after it; None where the draft was cut short.
    """

    data: bytes
    ends: tuple[int, ...]
    probabilities: tuple[float, ...]
    end: float | None

    def probability(self, start: int, stop: int) -> float:
        """The plug-in's probability of `data[start:stop]`: of the tokens that begin there."""
        begins = (0, *self.ends[:-1])
        inside = [p for b, p in zip(begins, self.probabilities, strict=True) if start <= b < stop]
        return float(np.prod(inside)) if inside else 1.0


class Drafter:
    """Makes drafts, and remembers them: they depend on the text alone, not on the target."""

    def __init__(self, params: Any, config: ModelConfig, tokenizer: Tokenizer) -> None:
        """Args: the plug-in."""
        self.params, self.config, self.tokenizer = params, config, tokenizer
        self._known: dict[bytes, Draft] = {}
        self._endings = draft_endings(tokenizer, config.vocab_size)

    def forget(self) -> None:
        """Forget all drafts: they are worth keeping from target to target, not for ever."""
        self._known.clear()

    def drafts(self, texts: Sequence[bytes]) -> list[Draft]:
        """The plug-in's greedy continuation of each text."""
        missing = sorted({text for text in texts if text not in self._known}, key=_by_length)
        for start in range(0, len(missing), ROWS):
            group = missing[start : start + ROWS]
            self._known.update(zip(group, self._make(group), strict=True))
        return [self._known[text] for text in texts]

    def _make(self, texts: Sequence[bytes]) -> list[Draft]:
        rows = [self.tokenizer.encode_bytes(text) for text in texts]
        found = greedy_continuation(
            self.params,
            self.config,
            *batch_of(rows, largest=ROWS),
            self._endings,
            steps=DRAFT_TOKENS,
        )
        tokens, chances, counts, stopped = (np.asarray(array).tolist() for array in found)
        return [
            self._draft(
                tokens[i][: counts[i]],
                chances[i][: counts[i]],
                chances[i][counts[i]] if stopped[i] else None,
            )
            for i in range(len(texts))
        ]

    def _draft(self, tokens: list[int], chances: list[float], end: float | None) -> Draft:
        pieces = [self.tokenizer.decode_bytes([token], continuation=True) for token in tokens]
        data = b"".join(pieces)
        if end is None and b" " in data[1:]:  # cut short: the last word may not be whole
            data = data[: data.rindex(b" ")]
        offsets = np.cumsum([len(piece) for piece in pieces]).tolist()
        kept = [i for i, offset in enumerate(offsets) if offset - len(pieces[i]) < len(data)]
        return Draft(
            data,
            tuple(min(offsets[i], len(data)) for i in kept),
            tuple(chances[i] for i in kept),
            end,
        )


class DraftReader:
    """What the drafts propose to one target, row by row, while its rows grow.

    A draft is drawn anew only when it is used up or an accepted token leaves it.
    """

    def __init__(self, drafter: Drafter, target: Tokenizer, prompts: Sequence[str]) -> None:
        """Args: where drafts come from, who reads them, and the prompts of the B rows."""
        self.drafter, self.target = drafter, target
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
        for i, draft in zip(
            empty, self.drafter.drafts([self.texts[i] for i in empty]), strict=True
        ):
            self.drafts[i], self.used[i] = draft, 0

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
        self.texts[i] += piece
        draft, start = self.drafts[i], self.used[i]
        if draft is None:
            return
        self.used[i] += len(piece)
        left = draft.data[start:].startswith(piece)
        done = self.used[i] == len(draft.data) and draft.end is None
        if not left or done:
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
