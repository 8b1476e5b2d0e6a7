"""What one model writes after many prompts: a row that ends gives its place to the next prompt.

A step costs little more for many rows than for a few, and answers differ in length. So the batch is
large and stays full: the compiled loop pauses where some rows have ended, others join, and it goes
on. The text of a row doesn't depend on its neighbours.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.decoding.draws import TAKEN, Draw, Draws, sampling_of
from onceedit_jax.decoding.greedy import (
    Continuation,
    SoFar,
    StopTokens,
    add_tokens,
    nothing_written,
    reading,
)
from onceedit_jax.decoding.joining_rows import JoiningRows
from onceedit_jax.decoding.numbers import check_written
from onceedit_jax.decoding.options import GREEDY
from onceedit_jax.decoding.sampled import chosen
from onceedit_jax.decoding.sampling import Sampling
from onceedit_jax.distributed.bucketing import bucket
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.models.cache import Cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.types import AnyArray

ROWS = 64  # written at once
JOINING = 16  # rows that join together
COLUMNS = 256  # of the longest row; longer ones are written `JOINING` at once, to bound the cache


class _Paused(NamedTuple):
    """Where the loop has paused.

    Attributes:
      written: since it went on.
      so_far: of each row.
      running: `[B]`, rows that have not ended.
      states: `[B, D]`, after each running row's last token.
    """

    written: Continuation
    so_far: SoFar
    running: Bool[Array, "batch"]
    states: Float[Array, "batch hidden"]


@partial(jax.jit, static_argnames=("config", "steps"), donate_argnames="cache")
def _write(
    params: Any,
    config: ModelConfig,
    cache: Cache,
    states: Float[AnyArray, "batch hidden"],
    first: Int[AnyArray, "batch"],
    left: Int[AnyArray, "batch"],
    so_far: SoFar,
    stops: StopTokens,
    sampling: Sampling | None,
    limit: Int[AnyArray, ""],
    fewest: Int[AnyArray, ""],
    *,
    steps: int,
) -> tuple[_Paused, Cache]:
    """Write rows until fewer than `fewest` of them run, `limit` steps at most.

    Args:
      params: the model's parameters.
      config: its configuration.
      cache: of the rows; it is donated.
      states: `[B, D]`, after each row's last token.
      first: `[B]`, the position of each row's next token.
      left: `[B]`, how many tokens each row may still get; 0 in places without a row.
      so_far: of each row.
      stops: tokens that end a row.
      sampling: how tokens are drawn, with K numbers of each row; None for the most likely ones.
      limit: the most steps, at most K.
      fewest: at least 1.
      steps: K, the most tokens that the result has room for.
    """
    stops = jax.tree.map(jnp.asarray, stops)
    read = reading(params, config, jnp.asarray(first))

    def goes_on(state: Any) -> Any:
        step, _, _, running, _ = state
        return (step < limit) & (jnp.sum(running) >= fewest)

    def choose_and_read(state: Any) -> Any:
        step, written, so_far, running, carry = state
        token, probability = chosen(unembed(params, config, carry[0]), sampling, step)
        written, so_far, running = add_tokens(
            token, probability, step, written, so_far, running, stops
        )
        running = running & (left > step + 1)
        return step + 1, written, so_far, running, read(carry, token, step, running)

    begun = (
        jnp.int32(0),
        nothing_written(states.shape[0], steps),
        SoFar(jnp.asarray(so_far.blank), jnp.asarray(so_far.place)),
        jnp.asarray(left) > 0,
        (jnp.asarray(states), cache),
    )
    _, written, so_far, running, carry = jax.lax.while_loop(goes_on, choose_and_read, begun)
    return _Paused(written, so_far, running, carry[0]), carry[1]


@dataclasses.dataclass
class _Row:
    """A row that is being written.

    Attributes:
      prompt: which of the prompts it answers.
      state: `[D]`, after its last token.
      tokens: of the answer so far.
      blank: whether these are only blanks.
      place: the row's in `StopTokens.progress`.
    """

    prompt: int
    state: Float[np.ndarray, "hidden"]
    tokens: list[int] = dataclasses.field(default_factory=list)
    blank: bool = True
    place: int = 0


class _Writing:
    """Prompts, the rows that are written, and the answers that are whole."""

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        prompts: Sequence[Sequence[int]],
        stops: StopTokens,
        steps: int,
        draws: Draws,
    ) -> None:
        self.prompts, self.stops, self.steps, self.draws = prompts, stops, steps, draws
        # Prompts of similar length join together, so that little of a prefill is padding.
        self.waiting = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        longest = bucket(max(map(len, prompts))) + steps
        largest = ROWS if longest <= COLUMNS else JOINING
        self.rows = JoiningRows(
            params, config, largest=largest, context=longest, spare=steps, rounded=bucket
        )
        self.open: dict[int, _Row] = {}  # by their places in the batch
        self.answers: list[list[int]] = [[] for _ in prompts]

    def join(self) -> None:
        """Let prompts join, as long as there is room for a whole batch of them."""
        while self.waiting and self.rows.free >= min(JOINING, len(self.waiting)):
            joining = [self.waiting.pop() for _ in range(min(JOINING, len(self.waiting)))]
            texts = [self.prompts[i] for i in joining]
            places, states = self.rows.join(texts, [1] * len(texts))
            after = to_host(states)
            for line, (i, place) in enumerate(zip(joining, places, strict=True)):
                self.open[place] = _Row(i, after[line, 0])

    def write(self) -> None:
        """Write until enough rows have ended that others may join, or all have."""
        rows, height, width = self.rows, self.rows.height, self.rows.config.hidden_size
        states = np.zeros((height, width), np.float32)
        first, left, place = (np.zeros(height, np.int32) for _ in range(3))
        blank = np.ones(height, bool)
        for n, row in self.open.items():
            states[n], blank[n], place[n] = row.state, row.blank, row.place
            first[n], left[n] = rows.lengths[n], self.steps - len(row.tokens)
        fewest = len(self.open) - min(JOINING, len(self.waiting)) + 1 if self.waiting else 1
        loop = partial(
            _write,
            states=states,
            first=first,
            left=left,
            so_far=SoFar(blank, place.astype(np.int16)),
            stops=self.stops,
            sampling=self._sampling(height),
            fewest=np.int32(fewest),
            steps=self.steps,
        )
        paused = rows.write(loop, int(left.max()))
        texts: list[list[int]] = [[]] * height
        for n, row in self.open.items():
            texts[n] = [*self.prompts[row.prompt], *row.tokens]
        check_written(paused.written, rows.params, rows.config, texts)
        self._take(paused)

    def _take(self, paused: _Paused) -> None:
        tokens, lengths = to_host(paused.written.tokens), to_host(paused.written.length)
        running, states = to_host(paused.running), to_host(paused.states)
        blank, place = to_host(paused.so_far.blank), to_host(paused.so_far.place)
        for n, row in list(self.open.items()):
            row.tokens += tokens[n, : lengths[n]].tolist()
            if running[n]:
                self.rows.lengths[n] += int(lengths[n])
                row.state, row.blank, row.place = states[n], bool(blank[n]), int(place[n])
            else:
                self.answers[row.prompt] = row.tokens
                del self.open[n]
                self.rows.leave(n)

    def _sampling(self, height: int) -> Sampling | None:
        if not self.draws.settings.draws:
            return None
        rows = [Draw(GREEDY, np.zeros(self.steps, np.float32))] * height
        for n, row in self.open.items():
            rows[n] = self.draws.next(row.prompt, self.steps, written=len(row.tokens))
        return sampling_of(rows, height)


def many_continuations(
    params: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    stops: StopTokens,
    *,
    steps: int,
    draws: Draws = TAKEN,
) -> list[list[int]]:
    """A model's new tokens after each of N prompts, without the one that ended them.

    Args:
      params: the model's parameters.
      config: its configuration.
      prompts: N token sequences, none empty.
      stops: tokens that end a row.
      steps: the most tokens of a row.
      draws: how tokens are drawn, if they are.

    Raises:
      InputError: a prompt and its answer are longer than the model's context.
      RunError: logits that are not finite.
    """
    if not prompts:
        return []
    config.check_length(max(map(len, prompts)) + steps - 1)  # the last is not read
    writing = _Writing(params, config, prompts, stops, steps, draws)
    while writing.waiting or writing.open:
        writing.join()
        writing.write()
    return writing.answers
