"""The plug-in drafts text, and the target's tokenizer reads it: no word is split in two ways.

Token by token, one vocabulary's " Wash" meets the other's " Washington" and both lose. Text has no
such borders: the plug-in's greedy continuation is kept as bytes, and what it proposes for the next
token is the next token of the target's own reading of (text so far + draft).
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.runner import CachedRows
from onceedit_jax.text.tokenizer import Tokenizer

DRAFT_TOKENS = 16  # plug-in tokens a draft holds at most
ROWS = 16  # drafts made at once


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


@partial(jax.jit, static_argnames="config")
def _best(params: Any, config: ModelConfig, states: jax.Array) -> tuple[jax.Array, jax.Array]:
    probabilities = jax.nn.softmax(unembed(params, config, states), axis=-1)
    return jnp.argmax(probabilities, axis=-1), jnp.max(probabilities, axis=-1)


class Drafter:
    """Makes drafts, and remembers them: they depend on the text alone, not on the target."""

    def __init__(self, params: Any, config: ModelConfig, tokenizer: Tokenizer) -> None:
        """Args: the plug-in."""
        self.params, self.config, self.tokenizer = params, config, tokenizer
        self._known: dict[bytes, Draft] = {}

    def drafts(self, texts: Sequence[bytes]) -> list[Draft]:
        """The plug-in's greedy continuation of each text."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(missing), ROWS):
            group = missing[start : start + ROWS]
            self._known.update(zip(group, self._make(group), strict=True))
        return [self._known[text] for text in texts]

    def _make(self, texts: Sequence[bytes]) -> list[Draft]:
        heads = [self.tokenizer.encode_bytes(text) for text in texts]
        # A group is always of one size, so that a shape is compiled once.
        rows = [*heads, *[heads[0]] * (ROWS - len(heads))]
        written: list[list[int]] = [[] for _ in rows]
        chances: list[list[float]] = [[] for _ in rows]
        ends: list[float | None] = [None] * len(rows)
        cached = CachedRows(self.params, self.config, room=DRAFT_TOKENS)
        stopped = [False] * len(rows)
        for _ in range(DRAFT_TOKENS):
            states = cached.advance([a + b for a, b in zip(rows, written, strict=True)])
            tokens, probabilities = map(np.asarray, _best(self.params, self.config, states))
            for i, (token, chance) in enumerate(zip(tokens, probabilities, strict=True)):
                if stopped[i]:
                    continue
                ending = token == self.tokenizer.end_id
                if ending or b"\n" in self.tokenizer.decode_bytes([token], continuation=True):
                    stopped[i], ends[i] = True, float(chance)
                else:
                    written[i].append(int(token))
                    chances[i].append(float(chance))
            if all(stopped):
                break
        return [
            self._draft(tokens, probabilities, end)
            for tokens, probabilities, end in zip(written, chances, ends, strict=True)
        ][: len(texts)]

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
        for i, answer in enumerate(answers):
            for token in answer[self.accepted[i] :]:
                self._accept(i, self.target.decode_bytes([token], continuation=True))
            self.accepted[i] = len(answer)
        empty = [i for i, draft in enumerate(self.drafts) if draft is None]
        for i, draft in zip(
            empty, self.drafter.drafts([self.texts[i] for i in empty]), strict=True
        ):
            self.drafts[i], self.used[i] = draft, 0
        read = [self._read(i) for i in range(len(answers))]
        tokens, probabilities = zip(*read, strict=True)
        return {
            "drafted": np.array(tokens, np.int32),
            "probability": np.array(probabilities, np.float32),
        }

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

    def _read(self, i: int) -> tuple[int, float]:
        draft, start = self.drafts[i], self.used[i]
        assert draft is not None
        rest = draft.data[start:]
        if not rest:
            return (self.target.end_id, draft.end) if draft.end is not None else (-1, 0.0)
        token = self.target.encode_bytes(rest, continuation=True)[0]
        piece = self.target.decode_bytes([token], continuation=True)
        return token, draft.probability(start, start + len(piece))
