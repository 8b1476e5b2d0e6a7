"""Draws next tokens: by temperature, top-k and nucleus, each row by settings of its own."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from onceedit_jax.decoding.options import COLDEST
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.types import AnyArray

GROUPS = 1024  # a vocabulary is summed in so many groups, as a scan over all of it is slow on CPU
HALVINGS = 30  # of the interval that the nucleus's least probability lies in


class Sampling(NamedTuple):
    """How the next tokens of B rows are chosen, as arrays.

    Attributes:
      temperature: `[B]`, less than `COLDEST` for the most likely token.
      top_p: `[B]`, the least mass of the likeliest tokens that are drawn from; 1 for all tokens.
      top_k: `[B]` int32, how many of the likeliest tokens are drawn from; 0 for all tokens.
      uniform: `[B, K]`, a random number in [0, 1) for each of a row's next K tokens.
    """

    temperature: Float[AnyArray, "batch"]
    top_p: Float[AnyArray, "batch"]
    top_k: Int[AnyArray, "batch"]
    uniform: Float[AnyArray, "batch steps"]


class LogProbabilities(NamedTuple):
    """Log-probabilities at N places of texts.

    Attributes:
      chosen: `[N]`, of the tokens that were chosen.
      top: `[N, K]`, of the K likeliest tokens, the likeliest first.
      tokens: `[N, K]` int32, these tokens.
    """

    chosen: Float[Array, "places"]
    top: Float[Array, "places top"]
    tokens: Int[Array, "places top"]


def draw(
    logits: Float[Array, "batch vocab"], sampling: Sampling, step: int | Int[Array, ""] = 0
) -> Int[Array, "batch"]:
    """The next token of every row, int32; nothing is drawn where all temperatures are 0.

    Args:
      logits: `[B, V]`, -inf for tokens that are never drawn.
      sampling: how tokens are chosen.
      step: which of the K random numbers of each row is taken.
    """
    cold = most_likely(logits)
    warm = jnp.asarray(sampling.temperature) >= COLDEST

    def drawn() -> jax.Array:
        uniform = jnp.asarray(sampling.uniform)[:, step]
        return jnp.where(warm, inverse_cdf(drawn_from(logits, sampling), uniform), cold)

    tokens: jax.Array = jax.lax.cond(jnp.any(warm), drawn, lambda: cold)
    return tokens


def drawn_from(
    logits: Float[Array, "batch vocab"], sampling: Sampling
) -> Float[Array, "batch vocab"]:
    """The weights that tokens are drawn by, up to a factor of each row; zeros where never.

    Temperature, then top-k, then top-p, as transformers applies them. In rows whose temperature is
    0 the weights have no meaning.
    """
    temperature, top_p, top_k = (jnp.asarray(setting) for setting in sampling[:3])
    scale = jnp.where(temperature >= COLDEST, temperature, 1.0)[:, None]
    # Differences before the division: large logits by a small temperature are infinite.
    scaled = (logits - jnp.max(logits, axis=-1, keepdims=True)) / scale
    scaled = jax.lax.cond(jnp.any(top_k > 0), lambda: likeliest_k(scaled, top_k), lambda: scaled)
    weights = jax.nn.softmax(scaled, axis=-1)
    kept: jax.Array = jax.lax.cond(
        jnp.any(top_p < 1), lambda: nucleus(weights, top_p), lambda: weights
    )
    return kept


def likeliest_k(
    scores: Float[Array, "batch vocab"], top_k: Int[AnyArray, "batch"]
) -> Float[Array, "batch vocab"]:
    """The `top_k` largest scores and those that equal the last of them; -inf in place of the rest.

    The last one is found by halving the range of float32 numbers, which is exact, since sorting a
    vocabulary takes far longer on CPU.

    Args:
      scores: 0 or less, -inf among them.
      top_k: 0 for all.
    """
    size = scores.shape[-1]
    count = jnp.where(top_k > 0, jnp.minimum(top_k, size), size)
    bits = jax.lax.bitcast_convert_type(scores.astype(jnp.float32), jnp.int32)
    # The bits of a negative number grow as it falls. 0 and -0, which are equal, both become 0.
    order = jnp.where(scores < 0, bits ^ 0x7FFFFFFF, 0)

    def halved(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = low + (high - low) // 2
        enough = jnp.sum(order >= middle[:, None], axis=-1) >= count
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # The least order is that of -inf: every score reaches it, and none reaches 1.
    low = jnp.full(count.shape, np.float32(-np.inf).view(np.int32) ^ 0x7FFFFFFF, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 31, halved, (low, jnp.ones_like(low)))
    return jnp.where(order >= low[:, None], scores, -jnp.inf)


def nucleus(
    weights: Float[Array, "batch vocab"], top_p: Float[AnyArray, "batch"]
) -> Float[Array, "batch vocab"]:
    """The fewest of the largest weights whose sum is at least `top_p`, zeros in place of the rest.

    The least weight that is kept is found by halving an interval, since sorting a vocabulary takes
    far longer on CPU. Weights that differ by less than a billionth of the largest are not told
    apart.

    Args:
      weights: each row sums to 1.
      top_p: in (0, 1].
    """
    largest = jnp.max(weights, axis=-1)

    def halved(_: Any, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        mass = jnp.sum(jnp.where(weights >= middle[:, None], weights, 0.0), axis=-1)
        enough = mass >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    # The largest weight is always kept: the upper bound lies just above it.
    bounds = jnp.zeros_like(largest), largest * (1 + 1e-6)
    low, _ = jax.lax.fori_loop(0, HALVINGS, halved, bounds)
    return jnp.where(weights >= jnp.minimum(low, largest)[:, None], weights, 0.0)


def inverse_cdf(
    weights: Float[Array, "batch vocab"], uniform: Float[AnyArray, "batch"]
) -> Int[Array, "batch"]:
    """The token at which the cumulated weights exceed `uniform` of their sum; one above 0.

    Args:
      weights: 0 or more, not all 0.
      uniform: in [0, 1).
    """
    size = weights.shape[-1]
    width = -(-size // GROUPS)
    count = -(-size // width)
    groups = jnp.pad(weights, [(0, 0), (0, count * width - size)]).reshape(-1, count, width)
    sums = jnp.sum(groups, axis=-1)
    ends = jnp.cumsum(sums, axis=-1)
    place = jnp.asarray(uniform) * ends[:, -1]
    group = _first_beyond(ends, sums, place)
    rows = jnp.arange(weights.shape[0])
    inside = groups[rows, group]
    rest = place - (ends - sums)[rows, group]
    token = _first_beyond(jnp.cumsum(inside, axis=-1), inside, rest)
    return (group * width + token).astype(jnp.int32)


def _first_beyond(ends: jax.Array, weights: jax.Array, place: jax.Array) -> jax.Array:
    """The first entry whose end lies beyond a place, among those that weigh something."""
    beyond = (ends > place[:, None]) & (weights > 0)
    # Rounding may leave no entry beyond the place: then it is the last one that weighs something.
    last = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    return jnp.where(jnp.any(beyond, axis=-1), jnp.argmax(beyond, axis=-1), last)


@partial(jax.jit, static_argnames="config")
def draw_after(
    head: Any,
    config: ModelConfig,
    states: Float[AnyArray, "batch columns hidden"],
    columns: Int[AnyArray, "batch"],
    sampling: Sampling,
) -> Int[Array, "batch"]:
    """The next token after one state of every row, by the first random number of the row.

    Args:
      head: the part of the model's parameters that `unembed` reads.
      config: its configuration.
      states: `[B, C, D]`, final states.
      columns: `[B]`, which of the C states of each row.
      sampling: how tokens are chosen.
    """
    chosen = jnp.take_along_axis(jnp.asarray(states), columns[:, None, None], axis=1)[:, 0]
    return draw(unembed(head, config, chosen), sampling)


@partial(jax.jit, static_argnames=("config", "top"))
def log_probabilities(
    head: Any,
    config: ModelConfig,
    states: Float[AnyArray, "places hidden"],
    tokens: Int[AnyArray, "places"],
    *,
    top: int,
) -> LogProbabilities:
    """A model's log-probabilities of chosen tokens and of the likeliest ones.

    Args:
      head: the part of the model's parameters that `unembed` reads.
      config: its configuration.
      states: `[N, D]`, the final states before the tokens.
      tokens: `[N]` int32.
      top: K.
    """
    logits = unembed(head, config, jnp.asarray(states))
    logs = jax.nn.log_softmax(logits, axis=-1)
    chosen = jnp.take_along_axis(logs, jnp.asarray(tokens)[:, None], axis=-1)[:, 0]
    values, ids = jax.lax.top_k(logs, top)
    return LogProbabilities(chosen, values, ids.astype(jnp.int32))
