"""The plug-in drafts text, and the target's tokenizer reads it, so that words match.

In a fusion of tokens, one vocabulary's " Wash" competes with the other's " Washington", and both
lose. So the plug-in's greedy continuation is held as bytes. It proposes the next token that the
target's tokenizer reads in (text so far + draft).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.decoding.numbers import check_written
from onceedit_jax.decoding.prefix_batching import shared_batch
from onceedit_jax.decoding.stopping import draft_stops, ends_word, glued_tokens
from onceedit_jax.distributed.mesh import mesh_of, to_host
from onceedit_jax.models.adapters import NO_ADAPTER, adapted
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

DRAFT_TOKENS = 32  # the most plug-in tokens of a draft
FIRST_TOKENS = 8  # written first where the rest is seldom read
ROWS = 32  # drafts written at once


@dataclasses.dataclass(frozen=True)
class Draft:
    """A greedy continuation of a text by the plug-in.

    Attributes:
      data: its bytes. A draft that was cut short holds whole words, unless it is one long word.
      ends: for each of its tokens, the offset in `data` where it ends.
      probabilities: for each of its tokens, the plug-in's probability of it.
      end: probability of the end token or newline after it; None where the draft was cut short.
      whole: whether nothing can be added: it has ended, or it has `DRAFT_TOKENS` tokens.
    """

    data: bytes
    ends: tuple[int, ...]
    probabilities: tuple[float, ...]
    end: float | None
    whole: bool = True

    def probability(self, start: int, stop: int) -> float:
        """The plug-in's probability of `data[start:stop]`: of the tokens that begin there."""
        starts = (0, *self.ends[:-1])
        inside = [p for s, p in zip(starts, self.probabilities, strict=True) if start <= s < stop]
        return float(np.prod(inside)) if inside else 1.0


class _Written(NamedTuple):
    """What the plug-in has written after a text.

    Attributes:
      tokens: its tokens.
      probabilities: of each token.
      end: of the token that ended it; None where none did.
    """

    tokens: list[int]
    probabilities: list[float]
    end: float | None

    @property
    def whole(self) -> bool:
        return self.end is not None or len(self.tokens) == DRAFT_TOKENS


class Start(NamedTuple):
    """Where a draft begins.

    Attributes:
      text: the text that it continues.
      opens: whether it opens an answer. Such a draft does not begin with an end of the answer: the
        gate is open, so the plug-in has something to say. Nor does it continue the last word.
      adapter: which of the plug-in's adapters writes it; -1 for none.
    """

    text: bytes
    opens: bool
    adapter: int = NO_ADAPTER


class Drafter:
    """Writes drafts, and remembers them: a draft depends on the text, not on the target."""

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        tokenizer: Tokenizer,
        adapters: Params | None = None,
    ) -> None:
        """Remember nothing yet.

        Args:
          params: the plug-in's parameters.
          config: its configuration.
          tokenizer: its tokenizer.
          adapters: its adapters, if its edits are in adapters.
        """
        self.params, self.config, self.tokenizer = params, config, tokenizer
        self.adapters = adapters
        self._drafts: dict[Start, _Written] = {}
        form = PromptFormat(tokenizer)
        self._stops = draft_stops(form, config.vocab_size)
        self._glued = glued_tokens(form, config.vocab_size)

    def forget(self) -> None:
        """Forget all drafts, so that memory is bounded: they serve the targets of one call."""
        self._drafts.clear()

    def drafts(self, starts: Sequence[Start], *, whole: bool) -> list[Draft]:
        """The plug-in's greedy continuation of each text.

        Args:
          starts: the texts to continue.
          whole: write drafts to their end. Otherwise new drafts have `FIRST_TOKENS` tokens. A later
            call with `whole` continues them, with the result of writing them at once.
        """
        for missing, steps in self._missing(set(starts), whole=whole):
            for first in range(0, len(missing), ROWS):
                self._write(missing[first : first + ROWS], steps)
        return [self._draft(self._drafts[start]) for start in starts]

    def _missing(self, starts: set[Start], *, whole: bool) -> list[tuple[list[Start], int]]:
        """Starts whose drafts are to be written or continued, and by how many tokens."""
        fresh = sorted(starts - self._drafts.keys(), key=_by_length)
        missing = [(fresh, DRAFT_TOKENS if whole else FIRST_TOKENS)]
        if whole:
            known = starts & self._drafts.keys()
            paused = [start for start in known if not self._drafts[start].whole]
            missing.append((sorted(paused, key=_by_length), DRAFT_TOKENS - FIRST_TOKENS))
        return missing

    def _write(self, starts: Sequence[Start], steps: int) -> None:
        earlier = [self._drafts.get(start, _Written([], [], None)) for start in starts]
        rows = [
            self.tokenizer.encode_bytes(start.text) + written.tokens
            for start, written in zip(starts, earlier, strict=True)
        ]
        self.config.check_length(max(map(len, rows)) + steps)
        batch = shared_batch(mesh_of(self.params), rows, largest=ROWS)
        opens = np.zeros(len(batch[0]), np.int32)
        opens[: len(rows)] = [
            0 if written.tokens or not start.opens else 2 if ends_word(start.text) else 1
            for start, written in zip(starts, earlier, strict=True)
        ]
        chosen = np.full(len(opens), starts[0].adapter, np.int32)
        chosen[: len(rows)] = [start.adapter for start in starts]
        continuation = greedy_continuation(
            adapted(self.params, self.adapters, chosen),
            self.config,
            *batch,
            self._stops,
            steps=steps,
            opens=jnp.asarray(opens),
            glued=self._glued,
        )
        check_written(continuation, self.params, self.config, rows)
        columns = (to_host(array).tolist() for array in continuation)
        for start, written, tokens, probabilities, length, stopped in zip(
            starts, earlier, *columns, strict=False
        ):
            self._drafts[start] = _Written(
                written.tokens + tokens[:length],
                written.probabilities + probabilities[:length],
                probabilities[length] if stopped else None,
            )

    def _draft(self, written: _Written) -> Draft:
        tokens, probabilities, end = written
        pieces = [self.tokenizer.decode_bytes([token], continuation=True) for token in tokens]
        data = b"".join(pieces)
        if end is None:  # cut short: the last word may not be whole
            if b" " in data[1:]:
                data = data[: data.rindex(b" ")]
            elif not written.whole:
                data = b""
        offsets = np.cumsum([len(piece) for piece in pieces]).tolist()
        inside = [i for i, offset in enumerate(offsets) if offset - len(pieces[i]) < len(data)]
        return Draft(
            data,
            tuple(min(offsets[i], len(data)) for i in inside),
            tuple(probabilities[i] for i in inside),
            end,
            written.whole,
        )


class DraftReader:
    """Reads drafts in one target's tokens, while the target's answers grow.

    A row gets a new draft when its draft is used up, or when an accepted token differs from it.

    The plug-in continues the prompt as it reads it, after a space. In chat an answer begins without
    that space: it is then part of `texts`, and the target reads the draft from the next byte.

    Attributes:
      texts: of each row, the bytes so far.
      accepted: of each row, how many tokens of the answer `texts` holds.
      used: of each row, how many bytes of its draft `texts` holds.
      drafts: of each row, the current draft.
    """

    def __init__(
        self,
        drafter: Drafter,
        target: Tokenizer,
        prompts: Sequence[str],
        *,
        adapters: Sequence[int] | None = None,
        spaced: bool = True,
        whole: bool = True,
    ) -> None:
        """Begin with empty answers.

        Args:
          drafter: writes the drafts.
          target: the target's tokenizer.
          prompts: of the B rows, as the plug-in reads them.
          adapters: the adapter that writes each row's drafts (default: none).
          spaced: whether the target's answers begin with the space that joins prompt and answer.
          whole: ask for whole drafts. Without it drafts come in two parts, the second when the
            first is used up. That is quicker where true tokens are accepted, since most of these
            differ from the draft after one or two words.
        """
        self.drafter, self.target, self.whole, self.spaced = drafter, target, whole, spaced
        self.prompts = [prompt.encode("utf-8") for prompt in prompts]
        self.adapters = [NO_ADAPTER] * len(prompts) if adapters is None else list(adapters)
        self.texts = list(self.prompts)
        self.accepted = [0] * len(prompts)
        self.used = [0] * len(prompts)
        self.drafts: list[Draft | None] = [None] * len(prompts)

    def view(self, answers: Sequence[Sequence[int]]) -> dict[str, Shaped[np.ndarray, "batch"]]:
        """`drafted` `[B]`, the next tokens (-1 for none), and the plug-in's `probability` `[B]`.

        Args:
          answers: B answers so far, in the target's tokens; each continues the one of the previous
            call.
        """
        rows = range(len(answers))
        self._follow(answers, rows)
        tokens, probabilities = zip(*(self._read(i, self.used[i]) for i in rows), strict=True)
        return {
            "drafted": np.array(tokens, np.int32),
            "probability": np.array(probabilities, np.float32),
        }

    def ahead(
        self, answers: Sequence[Sequence[int]], rows: Sequence[int]
    ) -> list[list[tuple[int, float]]]:
        """All tokens that the drafts of some rows propose, if each of them is accepted.

        Args:
          answers: as for `view`.
          rows: the rows to read; other rows get no draft.

        Returns:
          For each of `rows`, tokens and probabilities as `view` would give them one by one, up to
          where the row would need a new draft; at least one token.
        """
        self._follow(answers, rows)
        return [self._read_on(i) for i in rows]

    def _follow(self, answers: Sequence[Sequence[int]], rows: Sequence[int]) -> None:
        for i, answer in enumerate(answers):
            for token in answer[self.accepted[i] :]:
                self._accept(i, self.target.decode_bytes([token], continuation=True))
            self.accepted[i] = len(answer)
        without = [i for i in rows if self.drafts[i] is None]
        self._draft(without, whole=self.whole)
        self._draft([i for i in rows if self._is_paused(i)], whole=True)

    def _draft(self, rows: Sequence[int], *, whole: bool) -> None:
        """Get a draft for a row that has none, or the rest of the draft that it has."""
        for i in rows:
            if self.drafts[i] is None:
                self.used[i] = 0
        starts = [self._start(i) for i in rows]
        for i, draft in zip(rows, self.drafter.drafts(starts, whole=whole), strict=True):
            self.drafts[i] = draft
            if not self.spaced and self.texts[i] == self.prompts[i] and draft.data[:1] == b" ":
                self.texts[i], self.used[i] = self.texts[i] + b" ", 1

    def _start(self, i: int) -> Start:
        """Where the current draft of a row begins."""
        text = self.texts[i][: len(self.texts[i]) - self.used[i]]
        opens = not text[len(self.prompts[i]) :].strip()
        return Start(text, opens, self.adapters[i])

    def _is_paused(self, i: int) -> bool:
        """Whether the first part of a row's draft is used up, and the draft has more."""
        draft = self.drafts[i]
        return draft is not None and not draft.whole and self.used[i] == len(draft.data)

    def _read_on(self, i: int) -> list[tuple[int, float]]:
        draft, start = self.drafts[i], self.used[i]
        assert draft is not None
        steps = [self._read(i, start)]
        while steps[-1][0] not in (-1, self.target.end_id):
            piece = self.target.decode_bytes([steps[-1][0]], continuation=True)
            differs = not piece or not draft.data[start:].startswith(piece)
            start += len(piece)
            if differs or (start == len(draft.data) and draft.end is None):
                break
            steps.append(self._read(i, start))
        return steps

    def _joined(self, i: int, piece: bytes) -> bytes:
        """The bytes that a piece of an answer without the joining space adds to a row's text."""
        prompt, draft = self.prompts[i], self.drafts[i]
        if not piece or self.texts[i] not in (prompt, prompt + b" "):
            return piece
        if piece[:1].isspace():  # the target writes a space itself
            self.texts[i], self.used[i] = prompt, 0
        elif self.texts[i] == prompt and not (draft and draft.data.startswith(piece)):
            return b" " + piece
        return piece

    def _accept(self, i: int, piece: bytes) -> None:
        if not self.spaced:
            piece = self._joined(i, piece)
        draft, start = self.drafts[i], self.used[i]
        if draft is not None and not draft.whole:
            rest = draft.data[start:]
            if len(piece) > len(rest) and piece.startswith(rest):  # the piece needs more of it
                self._draft([i], whole=True)
                draft = self.drafts[i]
        self.texts[i] += piece
        if draft is None:
            return
        self.used[i] += len(piece)
        agrees = draft.data[start:].startswith(piece)
        used_up = self.used[i] == len(draft.data) and draft.end is None and draft.whole
        if not agrees or used_up:
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


def _by_length(start: Start) -> tuple[int, Start]:
    return len(start.text), start
