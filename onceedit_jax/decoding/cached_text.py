"""One text in the cache of a model: it grows, is cut back, and costs what is new of it.

The column of a token is its place in the text, so what is dropped is overwritten and no column is
lost. Many texts at once are those of `prefix_batching.CachedRows`.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.decoding.greedy import (
    Continuation,
    StopTokens,
    likeliest,
    reading,
    write_tokens,
)
from onceedit_jax.decoding.prefix_batching import common_prefix
from onceedit_jax.decoding.sampled import chosen
from onceedit_jax.decoding.sampling import Sampling, draw
from onceedit_jax.distributed.bucketing import bucket, doubling, pad_rows, row_positions
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.cache import Cache, init_cache, rollback
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import AnyArray


class Fresh(NamedTuple):
    """What a text runs next.

    Attributes:
      keep: `[1]`, how many of its tokens stay in the cache.
      tokens: `[1, T]` int32, those that run after them.
      positions: `[1, T]` int32, -1 on padding.
    """

    keep: Int[AnyArray, "one"]
    tokens: Int[AnyArray, "one length"]
    positions: Int[AnyArray, "one length"]


class CachedText:
    """One text in the cache of a model; what is dropped of it is overwritten.

    Attributes:
      params: the model's parameters.
      config: its configuration.
      tokens: what the cache holds.
      cache: the cache; the column of a token is its place in the text.
      columns: those of the cache.
    """

    def __init__(self, params: Any, config: ModelConfig, columns: int) -> None:
        """Begin without tokens.

        Args:
          params: the model's parameters.
          config: its configuration.
          columns: tokens of the longest text.
        """
        self.params, self.config = params, config
        self.tokens: list[int] = []
        self.columns = bucket(columns)
        self.cache: Cache = init_cache(self.config, 1, self.columns)

    def fresh(self, tokens: Sequence[int], *, smallest: int) -> Fresh:
        """What runs so that the cache holds these tokens: the last of them at least.

        Args:
          tokens: the text, not empty.
          smallest: columns of the narrowest pass, a power of two.
        """
        keep = min(common_prefix(self.tokens, tokens), len(tokens) - 1)
        width = doubling(len(tokens) - keep, smallest=smallest)
        if not keep or keep + width > self.columns:
            keep, width = 0, bucket(len(tokens))
        count = len(tokens) - keep
        positions = row_positions([count], width=width)
        self.tokens = list(tokens)
        return Fresh(
            np.array([keep], np.int32),
            pad_rows([list(tokens[keep:])], width=width),
            np.where(positions >= 0, positions + keep, -1).astype(np.int32),
        )


@partial(jax.jit, static_argnames="config", donate_argnames="cache")
def tokens_at(
    params: Any,
    config: ModelConfig,
    cache: Cache,
    fresh: Fresh,
    columns: Int[AnyArray, "columns"],
    sampling: Sampling | None = None,
) -> tuple[Int[Array, "columns"], Bool[Array, ""], Cache]:
    """A model's next tokens after some of the fresh ones, and whether their logits are numbers.

    Args:
      params: its parameters.
      config: its configuration.
      cache: of the text; it is donated.
      fresh: the end of the text.
      columns: `[C]`, places among the fresh tokens.
      sampling: how the token after each column is drawn, in C rows (default: the most likely one).
    """
    states, cache = _run(params, config, cache, fresh)
    logits = unembed(params, config, states[0, columns])
    tokens = most_likely(logits) if sampling is None else draw(logits, sampling)
    return tokens, jnp.isfinite(jnp.max(logits, axis=-1)).all(), cache


@partial(jax.jit, static_argnames=("config", "steps"), donate_argnames="cache")
def write_surely(
    params: Any,
    config: ModelConfig,
    cache: Cache,
    fresh: Fresh,
    ends: Bool[AnyArray, "vocab"],
    floor: Float[AnyArray, ""],
    limit: Int[AnyArray, ""] | int,
    *,
    steps: int,
) -> tuple[Int[Array, "steps"], Int[Array, ""], Cache]:
    """What a model writes after a text for as long as it is sure of all of it.

    Args:
      params: its parameters.
      config: its configuration.
      cache: of the text; it is donated.
      fresh: the end of the text.
      ends: `[V]`, tokens that end the draft and are no part of it.
      floor: least probability of the draft.
      limit: the most tokens of this call, at most K.
      steps: K, the most tokens that the result has room for.

    Returns:
      `[K]` tokens, how many of them were written, and a cache that holds all of these but the last.
    """

    def add(count: Any, tokens: Any, chance: Any, state: Any) -> Any:
        token, probability = likeliest(unembed(params, config, state))
        token, chance = token[0], chance * probability[0]
        goes_on = (chance >= floor) & ~ends[token] & (count < limit)
        return count + goes_on, tokens.at[count].set(token, mode="drop"), chance, goes_on

    def is_sure(carry: Any) -> Any:
        count, _, _, goes_on, _ = carry
        return goes_on & (count < limit)

    def read_and_add(carry: Any) -> Any:
        count, tokens, chance, _, cache = carry
        token, place = tokens[count - 1].reshape(1, 1), (first + count - 1).reshape(1, 1)
        hidden, cache = hidden_states(params, config, token, place, cache)
        return *add(count, tokens, chance, hidden[:, 0]), cache

    first = jnp.max(fresh.positions) + 1
    states, cache = _run(params, config, cache, fresh)
    begun = add(jnp.int32(0), jnp.zeros(steps, jnp.int32), jnp.float32(1), _last(states, fresh))
    carry = jax.lax.while_loop(is_sure, read_and_add, (*begun, cache))
    return carry[1], carry[0], carry[4]


@partial(jax.jit, static_argnames=("config", "steps"))
def write_on(
    params: Any,
    config: ModelConfig,
    cache: Cache,
    fresh: Fresh,
    stops: StopTokens,
    blank: Bool[AnyArray, "one"],
    place: Int[AnyArray, "one"],
    limit: Int[Array, ""] | int,
    sampling: Sampling | None = None,
    *,
    steps: int,
) -> Continuation:
    """What a model writes after a text, up to its end.

    Args:
      params: its parameters.
      config: its configuration.
      cache: of the text, with columns for what is written; it is not to be used again.
      fresh: the end of the text.
      stops: what ends the text.
      blank: `[1]`, whether the answer in it holds only blanks so far.
      place: `[1]`, of the answer in `stops.progress`.
      limit: the most tokens of this call, at most K.
      sampling: how tokens are drawn, in one row (default: the most likely ones).
      steps: K, the most tokens that the result has room for.
    """

    def choose(carry: Any, step: Any) -> tuple[jax.Array, jax.Array]:
        return chosen(unembed(params, config, carry[0]), sampling, step)

    first = jnp.max(fresh.positions, axis=1) + 1
    states, cache = _run(params, config, cache, fresh)
    return write_tokens(
        choose, reading(params, config, first), (_last(states, fresh), cache), first > 0, stops,
        steps=steps, limit=limit, blank=blank, place=place,
    )  # fmt: skip


def _run(params: Any, config: ModelConfig, cache: Cache, fresh: Fresh) -> tuple[Any, Cache]:
    """States `[1, T, D]` of fresh tokens, which follow those that stay."""
    cache = {**rollback(cache, fresh.keep), "length": fresh.keep[0]}
    states, longer = hidden_states(params, config, fresh.tokens, fresh.positions, cache)
    assert longer is not None
    # Columns of padding are written over.
    return states, {**longer, "length": jnp.max(fresh.positions) + 1}


def _last(states: jax.Array, fresh: Fresh) -> jax.Array:
    """The state `[1, D]` after the last fresh token."""
    return states[:, jnp.argmax(fresh.positions[0])]
