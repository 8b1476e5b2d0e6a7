"""Greedy continuation of many rows inside one compiled loop: no host step per token."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, hidden_states, unembed


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
      tokens: `[B, K]` int32; in a row that stopped, `tokens[length]` is the one that stopped it.
      probabilities: `[B, K]` float32, of each of these tokens.
      length: `[B]` int32, tokens before the stop; K in a row that did not stop.
    """

    tokens: jax.Array
    probabilities: jax.Array
    length: jax.Array


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
    height, width = tokens.shape
    rows = jnp.arange(height)
    endings = jax.tree.map(jnp.asarray, endings)

    def pick(hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        chances = jax.nn.softmax(unembed(params, config, hidden, compute_dtype=compute_dtype))
        return jnp.argmax(chances, axis=-1).astype(jnp.int32), jnp.max(chances, axis=-1)

    def going_on(state: Any) -> Any:
        step, length = state[0], state[1].length
        return (step < steps) & jnp.any(length == step)

    def write(state: Any) -> Any:
        step, written, blank, (token, chance), cache = state
        running = written.length == step
        stopped = jnp.where(blank, endings.at_start[token], endings.in_text[token])
        written = Continuation(
            written.tokens.at[:, step].set(token),
            written.probabilities.at[:, step].set(chance),
            written.length + (running & ~stopped),
        )
        place = jnp.where(running, first + step, -1)[:, None]
        hidden, cache = hidden_states(
            params, config, token[:, None], place, cache, compute_dtype=compute_dtype
        )
        return step + 1, written, blank & endings.blank[token], pick(hidden[:, 0]), cache

    cache = init_cache(config, height, width + steps, compute_dtype)
    hidden, filled = hidden_states(
        params, config, tokens, positions, cache, compute_dtype=compute_dtype
    )
    first = jnp.max(positions, axis=1) + 1
    start = Continuation(
        jnp.zeros((height, steps), jnp.int32),
        jnp.zeros((height, steps), jnp.float32),
        jnp.zeros(height, jnp.int32),
    )
    begun = pick(hidden[rows, jnp.argmax(positions, axis=1)])
    state = (jnp.int32(0), start, jnp.ones(height, bool), begun, filled)
    return jax.lax.while_loop(going_on, write, state)[1]
