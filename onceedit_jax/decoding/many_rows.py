"""What one model writes after many prompts: a row that ends gives its place to the next prompt.

A step costs little more for many rows than for a few, and answers differ in length. So the batch is
large and stays full: the compiled loop pauses where some rows have ended, others join, and it goes
on. The text of a row doesn't depend on its neighbours.
"""

import dataclasses
from collections.abc import Callable, Sequence
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
    barred_tokens,
    nothing_written,
    opens_after,
    reading,
)
from onceedit_jax.decoding.joining_rows import JoiningRows
from onceedit_jax.decoding.numbers import check_written
from onceedit_jax.decoding.options import GREEDY
from onceedit_jax.decoding.sampled import chosen
from onceedit_jax.decoding.sampling import Sampling
from onceedit_jax.distributed.bucketing import bucket, doubling, round_up
from onceedit_jax.distributed.mesh import batch_multiple, to_host
from onceedit_jax.models.cache import Cache, cache_bytes
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.types import AnyArray

ROWS = 64  # written at once
JOINING = 16  # rows that join together
ALONG = 16  # states of what is read along, in one compiled shape
# Of the longest row, and bytes of the whole cache. Beyond these `JOINING` are written at once.
COLUMNS, LARGEST = 256, 4 << 30


class Written(NamedTuple):
    """What was written after a prompt.

    Attributes:
      tokens: its tokens, without the one that ended it.
      probabilities: of each token.
      end: of the token that ended it; None where none did.
      along: `[T + 1, D]`, the states before each of the T tokens that were read along, and after
        the last; None where nothing was.
    """

    tokens: list[int]
    probabilities: list[float]
    end: float | None
    along: Float[np.ndarray, "tokens hidden"] | None = None


class Opening(NamedTuple):
    """How rows may begin, see `greedy_continuation`.

    Attributes:
      opens: `[B]` int32.
      glued: `[V]` bool.
    """

    opens: Int[AnyArray, "batch"]
    glued: Bool[AnyArray, "vocab"]


class _Paused(NamedTuple):
    """Where the loop has paused.

    Attributes:
      written: since it went on.
      so_far: of each row.
      running: `[B]`, rows that have not ended.
      states: `[B, D]`, after each running row's last token.
      opens: `[B]`, how each row may go on; None where all may with any token.
    """

    written: Continuation
    so_far: SoFar
    running: Bool[Array, "batch"]
    states: Float[Array, "batch hidden"]
    opens: Int[Array, "batch"] | None


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
    opening: Opening | None,
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
      opening: how rows may begin; None for any way.
      sampling: how tokens are drawn, with K numbers of each row; None for the most likely ones.
      limit: the most steps, at most K.
      fewest: at least 1.
      steps: K, the most tokens that the result has room for.
    """
    stops = jax.tree.map(jnp.asarray, stops)
    read = reading(params, config, jnp.asarray(first))

    barred = None if opening is None else barred_tokens(stops, opening.glued)

    def goes_on(state: Any) -> Any:
        step, _, _, running, _, _ = state
        return (step < limit) & (jnp.sum(running) >= fewest)

    def choose_and_read(state: Any) -> Any:
        step, written, so_far, running, opens, carry = state
        logits = unembed(params, config, carry[0])
        if barred is not None:
            logits = jnp.where(barred[opens], -jnp.inf, logits)
        token, probability = chosen(logits, sampling, step)
        if barred is not None:
            opens = opens_after(opens, token, stops)
        written, so_far, running = add_tokens(
            token, probability, step, written, so_far, running, stops
        )
        running = running & (left > step + 1)
        return step + 1, written, so_far, running, opens, read(carry, token, step, running)

    begun = (
        jnp.int32(0),
        nothing_written(states.shape[0], steps),
        SoFar(jnp.asarray(so_far.blank), jnp.asarray(so_far.place)),
        jnp.asarray(left) > 0,
        None if opening is None else jnp.asarray(opening.opens),
        (jnp.asarray(states), cache),
    )
    _, written, so_far, running, opens, carry = jax.lax.while_loop(goes_on, choose_and_read, begun)
    return _Paused(written, so_far, running, carry[0], opens), carry[1]


@dataclasses.dataclass
class _Row:
    """A row that is being written.

    Attributes:
      prompt: which of the prompts it answers.
      state: `[D]`, after its last token.
      opens: how it may go on, see `Opening`.
      tokens: of the answer so far.
      probabilities: of each of these.
      along: as of `Written`.
      blank: whether these are only blanks.
      place: the row's in `StopTokens.progress`.
    """

    prompt: int
    state: Float[np.ndarray, "hidden"]
    opens: int
    along: Float[np.ndarray, "tokens hidden"] | None
    tokens: list[int] = dataclasses.field(default_factory=list)
    probabilities: list[float] = dataclasses.field(default_factory=list)
    blank: bool = True
    place: int = 0


class _Rows(JoiningRows):
    """Rows in batches of 1, 4, 16 or 64, or of the largest."""

    def height_for(self, rows: int) -> int:
        """See `JoiningRows.height_for`."""
        height = next(height for height in (1, 4, 16, 64) if rows <= height)
        return round_up(min(height, self.largest), batch_multiple(self.mesh))


class _Writing:
    """Prompts, the rows that are written, and the answers that are whole."""

    def __init__(
        self,
        params_of: Callable[[Sequence[int]], Any],
        config: ModelConfig,
        prompts: Sequence[Sequence[int]],
        stops: StopTokens,
        steps: int,
        room: int,
        draws: Draws,
        opening: Opening | None,
        along: Sequence[Sequence[int]] | None,
    ) -> None:
        self.prompts, self.stops, self.draws = prompts, stops, draws
        self.steps, self.room = steps, room
        self.params_of, self.opening, self.along = params_of, opening, along
        # Prompts of similar length join together, so that little of a prefill is padding.
        lengths = [len(self.read(i)) for i in range(len(prompts))]
        self.waiting = sorted(range(len(prompts)), key=lambda i: -lengths[i])
        longest = bucket(max(lengths)) + room
        itemsize = jnp.dtype(config.compute_dtype).itemsize
        whole = cache_bytes(config, ROWS * longest, itemsize=itemsize)
        most = ROWS if longest <= COLUMNS and whole <= LARGEST else JOINING
        largest = min(most, doubling(len(prompts), smallest=JOINING))
        self.rows = _Rows(
            params_of([0]), config, largest=largest, context=longest, spare=room, rounded=bucket
        )
        self.open: dict[int, _Row] = {}  # by their places in the batch
        self.answers = [Written([], [], None)] * len(prompts)

    def read(self, i: int) -> Sequence[int]:
        """What is read of a prompt, with what is read along."""
        return self.prompts[i] if self.along is None else [*self.prompts[i], *self.along[i]]

    @property
    def joining(self) -> int:
        """How many prompts join next: of the last ones few, so that less of them is padding."""
        most = JOINING if len(self.waiting) >= JOINING else max(1, JOINING // 4)
        return min(most, len(self.waiting))

    def join(self) -> None:
        """Let prompts join, as long as there is room for a whole batch of them."""
        opens = None if self.opening is None else to_host(self.opening.opens)
        while self.waiting and self.rows.free >= self.joining:
            joining = [self.waiting.pop() for _ in range(self.joining)]
            texts, kept = [self.read(i) for i in joining], [len(self.prompts[i]) for i in joining]
            counts = [len(text) - count + 1 for text, count in zip(texts, kept, strict=True)]
            filler = joining[:1] * (self.rows.height_for(len(joining)) - len(joining))
            self.rows.params = self.params_of([*joining, *filler])
            columns = 1 if self.along is None else ALONG
            places, states = self.rows.join(texts, counts, kept=kept, columns=columns)
            after = to_host(states)
            for line, (i, place) in enumerate(zip(joining, places, strict=True)):
                start = 0 if opens is None else int(opens[i])
                seen = None if self.along is None else after[line, : counts[line]]
                self.open[place] = _Row(i, after[line, 0], start, seen)

    def write(self) -> None:
        """Write until enough rows have ended that others may join, or all have."""
        rows, height, width = self.rows, self.rows.height, self.rows.config.hidden_size
        states = np.zeros((height, width), jnp.dtype(rows.config.compute_dtype))
        first, left, place, opens = (np.zeros(height, np.int32) for _ in range(4))
        blank, texts = np.ones(height, bool), [[0]] * height
        owners = [next(iter(self.open.values())).prompt] * height
        for n, row in self.open.items():
            states[n], blank[n], place[n], opens[n] = row.state, row.blank, row.place, row.opens
            first[n], left[n] = rows.lengths[n], self.steps - len(row.tokens)
            owners[n], texts[n] = row.prompt, [*self.prompts[row.prompt], *row.tokens]
        self.rows.params = self.params_of(owners)
        loop = partial(
            _write,
            states=states,
            first=first,
            left=left,
            so_far=SoFar(blank, place.astype(np.int16)),
            stops=self.stops,
            opening=None if self.opening is None else self.opening._replace(opens=opens),
            sampling=self._sampling(height),
            fewest=np.int32(self._fewest()),
            steps=self.room,
        )
        paused = rows.write(loop, int(left.max()))
        check_written(paused.written, rows.params, rows.config, texts)
        self._take(jax.tree.map(to_host, paused))
        if self.open and len(self.open) <= self._lower:
            moved = rows.narrow(self._lower)
            self.open = {moved[n]: row for n, row in self.open.items()}

    def _fewest(self) -> int:
        """How many rows run at least, or the loop pauses: for others, or for a lower batch."""
        if self.waiting:
            return max(1, len(self.open) - self.joining + 1)
        return self._lower + 1

    @property
    def _lower(self) -> int:
        """The height of the batch that the last rows are moved to; 0 where none is lower."""
        lower = round_up(JOINING, batch_multiple(self.rows.mesh))
        return lower if not self.waiting and lower < self.rows.height else 0

    def _take(self, paused: _Paused) -> None:
        written, so_far = paused.written, paused.so_far
        for n, row in list(self.open.items()):
            count = int(written.length[n])
            chances = written.probabilities[n].tolist()
            row.tokens += written.tokens[n, :count].tolist()
            row.probabilities += chances[:count]
            if paused.running[n]:
                self.rows.lengths[n] += count
                row.state = np.asarray(paused.states[n])
                row.blank, row.place = bool(so_far.blank[n]), int(so_far.place[n])
                row.opens = 0 if paused.opens is None else int(paused.opens[n])
            else:
                end = chances[count] if written.stopped[n] else None
                self.answers[row.prompt] = Written(row.tokens, row.probabilities, end, row.along)
                del self.open[n]
                self.rows.leave(n)

    def _sampling(self, height: int) -> Sampling | None:
        if not self.draws.settings.draws:
            return None
        rows = [Draw(GREEDY, np.zeros(self.room, np.float32))] * height
        for n, row in self.open.items():
            rows[n] = self.draws.next(row.prompt, self.room, written=len(row.tokens))
        return sampling_of(rows, height)


def many_continuations(
    params: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    stops: StopTokens,
    *,
    steps: int,
    room: int | None = None,
    draws: Draws = TAKEN,
    opening: Opening | None = None,
    params_of: Callable[[Sequence[int]], Any] | None = None,
    along: Sequence[Sequence[int]] | None = None,
) -> list[Written]:
    """What a model writes after each of N prompts.

    Args:
      params: the model's parameters.
      config: its configuration.
      prompts: N token sequences, none empty.
      stops: tokens that end a row.
      steps: the most tokens of a row.
      room: of the compiled loop, `steps` or more (default: `steps`); other numbers of steps with
        the same room compile nothing new.
      draws: how tokens are drawn, if they are.
      opening: how each of the N may begin (default: with any token).
      params_of: the parameters of a batch, from the prompt of each of its rows (default: `params`).
      along: tokens after each of the N prompts that are read in the same pass, for their states;
        what is written does not depend on them.

    Raises:
      InputError: a prompt and its answer, or what is read along, are longer than the model's
        context.
      RunError: logits that are not finite.
    """
    if not prompts:
        return []
    config.check_length(max(map(len, prompts)) + steps - 1)  # the last is not read
    if along is not None:
        config.check_length(max(len(a) + len(b) for a, b in zip(prompts, along, strict=True)))
    params_of = params_of or (lambda rows: params)
    room = steps if room is None else room
    writing = _Writing(params_of, config, prompts, stops, steps, room, draws, opening, along)
    while writing.waiting or writing.open:
        writing.join()
        writing.write()
    return writing.answers
