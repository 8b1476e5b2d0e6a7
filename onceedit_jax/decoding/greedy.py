"""Greedy continuation of many rows inside one compiled loop: no host step per token."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.cache import Cache, init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import Params


class Endings(NamedTuple):
    """Which tokens end a row; what is no end at a row's beginning may be one later.

    Attributes:
      at_start: `[V]` bool, tokens that end a row of which nothing but blanks is written.
      in_text: `[V]` bool, tokens that end any other row.
      blank: `[V]` bool, tokens that leave a row as blank as it was.
    """

    at_start: jax.Array
    in_text: jax.Array
    blank: jax.Array


class Continuation(NamedTuple):
    """What B rows go on with, K tokens at most.

    Attributes:
      tokens: `[B, K]` int32; in a row that stopped, `tokens[length]` is the one that stopped it;
        what stands beyond means nothing.
      probabilities: `[B, K]` float32, of each of these tokens.
      length: `[B]` int32, tokens that the row has, without the one that stopped it.
      stopped: `[B]` bool, whether one did; without it a row wrote all it might, waits, or was not
        asked (length 0).
    """

    tokens: jax.Array
    probabilities: jax.Array
    length: jax.Array
    stopped: jax.Array


def write_greedily(
    choose: Callable[[Any], tuple[jax.Array, jax.Array]],
    read: Callable[[Any, jax.Array, jax.Array, jax.Array], Any],
    carry: Any,
    asked: jax.Array,
    endings: Endings,
    *,
    steps: int,
    limit: int | jax.Array | None = None,
    blank: jax.Array | None = None,
    pauses: jax.Array | None = None,
) -> Continuation:
    """The one loop of greedy writing: choose a token, stop or read it, choose the next.

    What would follow a row's last token is never computed, unless another row needs the pass.

    Args:
      choose: from the carry to the next tokens `[B]` and their probabilities `[B]`.
      read: from the carry, tokens `[B]`, the number of tokens written before them (a scalar) and
        which rows are open `[B]` to the carry after these tokens.
      carry: what the models hold after the prompts.
      asked: `[B]` bool, rows that shall write; the others only fill the batch.
      endings: when a row stops.
      steps: K, tokens written at most.
      limit: at most K, without another compilation.
      blank: `[B]` bool, rows of which nothing but blanks is written yet (default: all).
      pauses: `[V]` bool, tokens after which a row waits; they are written.

    Returns:
      What was written.
    """
    endings = jax.tree.map(jnp.asarray, endings)
    limit = steps if limit is None else jnp.minimum(limit, steps)

    def write(step: Any, written: Continuation, blank: Any, running: Any, carry: Any) -> Any:
        token, chance = choose(carry)
        ends = jnp.where(blank, endings.at_start[token], endings.in_text[token])
        stopped, running = running & ends, running & ~ends
        written = Continuation(
            written.tokens.at[:, step].set(token),
            written.probabilities.at[:, step].set(chance),
            written.length + running,
            written.stopped | stopped,
        )
        if pauses is not None:
            running = running & ~pauses[token]
        return step + 1, written, blank & endings.blank[token], running, carry

    def going_on(state: Any) -> Any:
        step, _, _, running, _ = state
        return (step < limit) & jnp.any(running)

    def read_and_write(state: Any) -> Any:
        step, written, blank, running, carry = state
        carry = read(carry, written.tokens[:, step - 1], step - 1, running)
        return write(step, written, blank, running, carry)

    rows = asked.shape[0]
    nothing = Continuation(
        jnp.zeros((rows, steps), jnp.int32),
        jnp.zeros((rows, steps), jnp.float32),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
    )
    blank = jnp.ones(rows, bool) if blank is None else blank
    begun = write(jnp.int32(0), nothing, blank, asked & (limit > 0), carry)
    written: Continuation = jax.lax.while_loop(going_on, read_and_write, begun)[1]
    return written


@partial(jax.jit, static_argnames=("config", "steps", "compute_dtype"))
def greedy_continuation(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    endings: Endings,
    *,
    steps: int,
    compute_dtype: str = "float32",
) -> Continuation:
    """The most probable next token, again and again, until every row has stopped.

    Args:
      params: parameters of the decoder.
      config: its configuration.
      tokens: `[B, T]` int32 prompts.
      positions: `[B, T]` int32, -1 on padding.
      endings: when a row stops.
      steps: K, tokens written at most.
      compute_dtype: operands of the matrix products.
    """

    def choose(carry: Any) -> tuple[jax.Array, jax.Array]:
        logits = unembed(params, config, carry[0], compute_dtype=compute_dtype)
        highest, total = jnp.max(logits, axis=-1), jax.nn.logsumexp(logits, axis=-1)
        return most_likely(logits), jnp.exp(highest - total)

    def read(carry: Any, token: Any, step: Any, running: Any) -> Any:
        place = jnp.where(running, first + step, -1)
        hidden, cache = hidden_states(
            params, config, token[:, None], place[:, None], carry[1], compute_dtype=compute_dtype
        )
        return hidden[:, 0], cache

    first = jnp.max(positions, axis=1) + 1
    carry = prefill(params, config, tokens, positions, room=steps, compute_dtype=compute_dtype)
    return write_greedily(choose, read, carry, first > 0, endings, steps=steps)


def prefill(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    *,
    room: int,
    compute_dtype: str = "float32",
) -> tuple[jax.Array, Cache]:
    """Run prompts `[B, T]`: the state after each `[B, D]`, and a cache with `room` columns more."""
    height, width = tokens.shape
    empty = init_cache(config, height, width + room, compute_dtype)
    hidden, cache = hidden_states(
        params, config, tokens, positions, empty, compute_dtype=compute_dtype
    )
    assert cache is not None
    return hidden[jnp.arange(height), jnp.argmax(positions, axis=1)], cache
