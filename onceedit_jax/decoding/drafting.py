"""The plug-in drafts text: its greedy continuation, held as bytes and remembered.

`draft_reading` has what a target's tokenizer reads in it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.decoding.many_rows import Opening, Written, many_continuations
from onceedit_jax.decoding.numbers import check_written
from onceedit_jax.decoding.prefix_batching import shared_batch
from onceedit_jax.decoding.stopping import draft_stops, ends_word, glued_tokens
from onceedit_jax.distributed.bucketing import doubling
from onceedit_jax.distributed.mesh import mesh_of, to_host
from onceedit_jax.models.adapters import NO_ADAPTER, adapted
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

DRAFT_TOKENS = 32  # the most plug-in tokens of a draft
FIRST_TOKENS = 8  # written first where the rest is seldom read
ROWS = 16  # drafts written in one compiled call


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
        self._drafts: dict[Start, Written] = {}
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
            if missing:
                self._write(missing, steps)
        return [self._draft(self._drafts[start]) for start in starts]

    def _missing(self, starts: set[Start], *, whole: bool) -> list[tuple[list[Start], int]]:
        """Starts whose drafts are to be written or continued, and by how many tokens."""
        fresh = sorted(starts - self._drafts.keys(), key=_by_length)
        missing = [(fresh, DRAFT_TOKENS if whole else FIRST_TOKENS)]
        if whole:
            known = starts & self._drafts.keys()
            paused = [start for start in known if not _is_whole(self._drafts[start])]
            missing.append((sorted(paused, key=_by_length), DRAFT_TOKENS - FIRST_TOKENS))
        return missing

    def _write(self, starts: Sequence[Start], steps: int) -> None:
        earlier = [self._drafts.get(start, Written([], [], None)) for start in starts]
        rows = [
            self.tokenizer.encode_bytes(start.text) + written.tokens
            for start, written in zip(starts, earlier, strict=True)
        ]
        self.config.check_length(max(map(len, rows)) + steps)
        opens = [
            0 if written.tokens or not start.opens else 2 if ends_word(start.text) else 1
            for start, written in zip(starts, earlier, strict=True)
        ]
        adapters = [start.adapter for start in starts]
        # The hosts of a mesh that several share run the same programs, whatever their rows are.
        if len(starts) > ROWS and not mesh_of(self.params).is_multi_process:
            added = self._together(rows, steps, opens, adapters)
        else:
            added = []
            for first in range(0, len(starts), ROWS):
                some = slice(first, first + ROWS)
                added += self._in_batch(rows[some], steps, opens[some], adapters[some])
        for start, written, more in zip(starts, earlier, added, strict=True):
            self._drafts[start] = Written(
                written.tokens + more.tokens, written.probabilities + more.probabilities, more.end
            )

    def _together(
        self, rows: list[list[int]], steps: int, opens: list[int], adapters: list[int]
    ) -> list[Written]:
        """What many texts go on with."""
        chosen = np.array(adapters, np.int32)
        return many_continuations(
            self.params,
            self.config,
            rows,
            self._stops,
            steps=steps,
            room=DRAFT_TOKENS,
            opening=Opening(np.array(opens, np.int32), self._glued),
            params_of=lambda places: adapted(self.params, self.adapters, chosen[list(places)]),
        )

    def _in_batch(
        self, rows: list[list[int]], steps: int, opens: list[int], adapters: list[int]
    ) -> list[Written]:
        """What at most `ROWS` texts go on with, in one compiled call."""
        width = doubling(max(map(len, rows)), smallest=16)  # few shapes: each is compiled
        batch = shared_batch(mesh_of(self.params), rows, largest=ROWS, width=width)
        fill = len(batch[0]) - len(rows)
        chosen = np.array(adapters + adapters[:1] * fill, np.int32)
        continuation = greedy_continuation(
            adapted(self.params, self.adapters, chosen),
            self.config,
            *batch,
            self._stops,
            steps=DRAFT_TOKENS,  # so that parts of drafts run the same program
            limit=np.int32(steps),
            opens=jnp.asarray(opens + [0] * fill, jnp.int32),
            glued=self._glued,
        )
        check_written(continuation, self.params, self.config, rows)
        columns = (to_host(array).tolist() for array in continuation)
        return [
            Written(tokens[:length], chances[:length], chances[length] if stopped else None)
            for _, tokens, chances, length, stopped in zip(rows, *columns, strict=False)
        ]

    def _draft(self, written: Written) -> Draft:
        tokens, probabilities, end, _ = written
        pieces = [self.tokenizer.decode_bytes([token], continuation=True) for token in tokens]
        data = b"".join(pieces)
        if end is None:  # cut short: the last word may not be whole
            if b" " in data[1:]:
                data = data[: data.rindex(b" ")]
            elif not _is_whole(written):
                data = b""
        offsets = np.cumsum([len(piece) for piece in pieces]).tolist()
        inside = [i for i, offset in enumerate(offsets) if offset - len(pieces[i]) < len(data)]
        return Draft(
            data,
            tuple(min(offsets[i], len(data)) for i in inside),
            tuple(probabilities[i] for i in inside),
            end,
            _is_whole(written),
        )


def _is_whole(written: Written) -> bool:
    return written.end is not None or len(written.tokens) == DRAFT_TOKENS


def _by_length(start: Start) -> tuple[int, Start]:
    return len(start.text), start
