"""Greedy continuation of many rows inside one compiled loop: no host step per token."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.cache import Cache, init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import AnyArray, Params


class StopTokens(NamedTuple):
    """What ends a row. A token may end a row that has text, and not an empty one.

    Attributes:
      at_start: `[V]` bool, tokens that end a row which holds only blanks so far.
      in_text: `[V]` bool, tokens that end any other row.
      blank: `[V]` bool, tokens that are only blanks.
      progress: `[P, V]` int16, for texts that end a row whatever tokens they are written in. A row
        has a place that says which beginning of such a text it ends with, 0 for none; this is the
        place after each token. At the last place a text is complete, and the row waits, with that
        token written. None for no such texts.
    """

    at_start: Bool[Array | np.ndarray, "vocab"]
    in_text: Bool[Array | np.ndarray, "vocab"]
    blank: Bool[Array | np.ndarray, "vocab"]
    progress: Int[Array | np.ndarray, "places vocab"] | None = None


class Continuation(NamedTuple):
    """What was written after B rows, at most K tokens each.

    Attributes:
      tokens: `[B, K]` int32; in a row that stopped, `tokens[length]` is the token that stopped it.
        Later entries have no meaning.
      probabilities: `[B, K]` float32, the probability of each of these tokens.
      length: `[B]` int32, tokens that were written, without the one that stopped the row.
      stopped: `[B]` bool, whether a token stopped the row. Any other row reached the limit, waits,
        or was not active (length 0).
    """

    tokens: Int[Array, "batch steps"]
    probabilities: Float[Array, "batch steps"]
    length: Int[Array, "batch"]
    stopped: Bool[Array, "batch"]


class SoFar(NamedTuple):
    """What decides whether a token ends a row.

    Attributes:
      blank: `[B]` bool, rows that hold only blanks so far.
      place: `[B]` int16, of each row in `StopTokens.progress`.
    """

    blank: Bool[AnyArray, "batch"]
    place: Int[AnyArray, "batch"]


def write_tokens(
    choose: Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]],
    read: Callable[[Any, jax.Array, jax.Array, jax.Array], Any],
    carry: Any,
    active: Bool[Array | np.ndarray, "batch"],
    stops: StopTokens,
    *,
    steps: int,
    limit: int | Int[AnyArray, ""] | None = None,
    blank: Bool[Array | np.ndarray, "batch"] | None = None,
    place: Int[Array | np.ndarray, "batch"] | None = None,
    pauses: Bool[Array, "vocab"] | None = None,
) -> Continuation:
    """The loop of all writing: choose a token, stop or read it, choose the next one.

    The model runs after a row's last token only if another row needs that pass.

    Args:
      choose: from the carry and the number of tokens written before to the next tokens `[B]` and
        their probabilities `[B]`.
      read: from the carry, tokens `[B]`, the number of tokens written before them (a scalar) and
        which rows are running `[B]` to the carry after these tokens.
      carry: the models' states and caches after the prompts.
      active: `[B]` bool, rows to write; the other rows only fill up the batch.
      stops: tokens that end a row.
      steps: K, the most tokens that the result has room for.
      limit: the most tokens of this call, at most K; another value compiles nothing new.
      blank: `[B]` bool, rows that hold only blanks so far (default: all).
      place: `[B]`, of each row in `stops.progress` (default: 0).
      pauses: `[V]` bool, tokens that are written and after which a row waits.
    """
    stops = jax.tree.map(jnp.asarray, stops)
    limit = steps if limit is None else jnp.minimum(limit, steps)

    def write(step: Any, written: Continuation, so_far: Any, running: Any, carry: Any) -> Any:
        token, probability = choose(carry, step)
        written, so_far, running = add_tokens(
            token, probability, step, written, so_far, running, stops
        )
        if pauses is not None:
            running = running & ~pauses[token]
        return step + 1, written, so_far, running, carry

    def is_running(state: Any) -> Any:
        step, _, _, running, _ = state
        return (step < limit) & jnp.any(running)

    def read_and_write(state: Any) -> Any:
        step, written, so_far, running, carry = state
        carry = read(carry, written.tokens[:, step - 1], step - 1, running)
        return write(step, written, so_far, running, carry)

    empty = nothing_written(active.shape[0], steps)
    blank = jnp.ones(active.shape[0], bool) if blank is None else blank
    place = jnp.zeros(active.shape[0]) if place is None else place
    so_far = SoFar(jnp.asarray(blank), jnp.asarray(place, jnp.int16))
    first = write(jnp.int32(0), empty, so_far, active & (limit > 0), carry)
    written: Continuation = jax.lax.while_loop(is_running, read_and_write, first)[1]
    return written


def add_tokens(
    token: Int[AnyArray, "batch"],
    probability: Float[AnyArray, "batch"],
    step: Int[AnyArray, ""],
    written: Continuation,
    so_far: SoFar,
    running: Bool[AnyArray, "batch"],
    stops: StopTokens,
) -> tuple[Continuation, SoFar, Bool[AnyArray, "batch"]]:
    """Add a token to every running row, or stop the row with it.

    Args:
      token: `[B]`, the tokens.
      probability: `[B]`, of each.
      step: the column of `written` that they go to.
      written: what this loop has written.
      so_far: what decides whether a token ends a row.
      running: `[B]`, rows that are written.
      stops: tokens that end a row.

    Returns:
      The same with the tokens: `written`, `so_far` and `running`.
    """
    blank, place = so_far
    ends = jnp.where(blank, stops.at_start[token], stops.in_text[token])
    stopped, running = running & ends, running & ~ends
    written = Continuation(
        written.tokens.at[:, step].set(token),
        written.probabilities.at[:, step].set(probability),
        written.length + running,
        written.stopped | stopped,
    )
    if stops.progress is not None:
        place = stops.progress[place, token]
        running = running & (place < len(stops.progress) - 1)
    return written, SoFar(blank & stops.blank[token], place), running


def nothing_written(rows: int, steps: int) -> Continuation:
    """What a loop has written before its first step."""
    return Continuation(
        jnp.zeros((rows, steps), jnp.int32),
        jnp.zeros((rows, steps), jnp.float32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
    )


@partial(jax.jit, static_argnames=("config", "steps"))
def greedy_continuation(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    stops: StopTokens,
    *,
    steps: int,
    limit: int | Int[AnyArray, ""] | None = None,
    opens: Int[Array, "batch"] | None = None,
    glued: Bool[Array | np.ndarray, "vocab"] | None = None,
) -> Continuation:
    """The most likely next token, again and again, until every row has stopped.

    Args:
      params: parameters of the decoder.
      config: its configuration.
      tokens: `[B, T]` int32 prompts.
      positions: `[B, T]` int32, -1 on padding; a row of padding alone is not written.
      stops: tokens that end a row.
      steps: K, the most tokens that the result has room for.
      limit: the most tokens to write, at most K (default: K); another value compiles nothing new.
      opens: `[B]` int32, how a row may begin. 0: with any token. 1: its text must not be empty, so
        it begins neither with a token that stops it nor with two blank ones. 2: nor with one that
        is glued. Probabilities there are of the other tokens alone (default: 0).
      glued: `[V]` bool, tokens that would continue the word before them (default: none).
    """
    barred = barred_tokens(stops, glued)

    def choose(carry: Any, step: Any) -> tuple[jax.Array, jax.Array]:
        logits = unembed(params, config, carry[0])
        if opens is not None:
            logits = jnp.where(barred[carry[2]], -jnp.inf, logits)
        return likeliest(logits)

    def read(carry: Any, token: Any, step: Any, running: Any) -> Any:
        after = read_on(carry, token, step, running)
        if opens is None:
            return after
        return *after, opens_after(carry[2], token, stops)

    first = jnp.max(positions, axis=1) + 1
    read_on = reading(params, config, first)
    carry: Any = prefill(params, config, tokens, positions, room=steps)
    if opens is not None:
        carry = (*carry, opens)
    return write_tokens(choose, read, carry, first > 0, stops, steps=steps, limit=limit)


def barred_tokens(
    stops: StopTokens, glued: Bool[AnyArray, "vocab"] | None
) -> Bool[Array, "openings vocab"]:
    """The tokens that a row may not go on with, for each way to open, see `greedy_continuation`.

    None are barred; ends are; ends and glued ones are; ends and blanks are.
    """
    blank, ends = jnp.asarray(stops.blank), jnp.asarray(stops.in_text)
    none = jnp.zeros_like(blank)
    return jnp.stack([none, ends, ends | (none if glued is None else glued), ends | blank])


def opens_after(
    opens: Int[AnyArray, "batch"], token: Int[AnyArray, "batch"], stops: StopTokens
) -> Int[Array, "batch"]:
    """How rows may go on after a token: with any one, but for an opening that is blank so far."""
    after = (jnp.asarray(opens) > 0) & jnp.asarray(stops.blank)[token]
    return 3 * after.astype(jnp.int32)


def reading(
    params: Params, config: ModelConfig, first: Int[Array, "batch"]
) -> Callable[[Any, Any, Any, Any], tuple[jax.Array, Cache]]:
    """How one model reads a token of every running row, for `write_tokens`.

    Args:
      params: parameters of the decoder.
      config: its configuration.
      first: `[B]` int32, the position of each row's first new token.

    Returns:
      The function; its carry begins with the states `[B, D]` and the cache.
    """

    def read(carry: Any, token: Any, step: Any, running: Any) -> tuple[jax.Array, Cache]:
        place = jnp.where(running, first + step, -1)
        hidden, cache = hidden_states(params, config, token[:, None], place[:, None], carry[1])
        assert cache is not None
        return hidden[:, 0], cache

    return read


def likeliest(
    logits: Float[AnyArray, "batch vocab"],
) -> tuple[Int[Array, "batch"], Float[Array, "batch"]]:
    """The most likely token of each row, and its probability."""
    highest, total = jnp.max(logits, axis=-1), jax.nn.logsumexp(logits, axis=-1)
    return most_likely(logits), jnp.exp(highest - total)


def prefill(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    *,
    room: int,
) -> tuple[Float[Array, "batch hidden"], Cache]:
    """Run prompts `[B, T]`: the state after each, `[B, D]`, and a cache with `room` more columns.

    Args:
      params: parameters of the decoder.
      config: its configuration.
      tokens: `[B, T]` int32.
      positions: `[B, T]` int32, -1 on padding.
      room: columns of the cache for later tokens.
    """
    height, width = tokens.shape
    empty = init_cache(config, height, width + room)
    hidden, cache = hidden_states(params, config, tokens, positions, empty)
    assert cache is not None
    return hidden[jnp.arange(height), jnp.argmax(positions, axis=1)], cache
