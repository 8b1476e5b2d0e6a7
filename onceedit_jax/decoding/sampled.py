"""Continuation of many rows by tokens that are drawn, inside one compiled loop."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from onceedit_jax.decoding.greedy import (
    Continuation,
    StopTokens,
    likeliest,
    prefill,
    reading,
    write_tokens,
)
from onceedit_jax.decoding.sampling import Sampling, draw
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.types import Params


@partial(jax.jit, static_argnames=("config", "steps"))
def sampled_continuation(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    stops: StopTokens,
    sampling: Sampling,
    *,
    steps: int,
) -> Continuation:
    """A token that is drawn, again and again, until every row has stopped.

    Args:
      params: parameters of the decoder.
      config: its configuration.
      tokens: `[B, T]` int32 prompts.
      positions: `[B, T]` int32, -1 on padding; a row of padding alone is not written.
      stops: tokens that end a row.
      sampling: how tokens are drawn, with K random numbers of each row; other values of it compile
        nothing new.
      steps: K, the most tokens to write.
    """

    def choose(carry: Any, step: Any) -> tuple[jax.Array, jax.Array]:
        return chosen(unembed(params, config, carry[0]), sampling, step)

    first = jnp.max(positions, axis=1) + 1
    return write_tokens(
        choose,
        reading(params, config, first),
        prefill(params, config, tokens, positions, room=steps),
        first > 0,
        stops,
        steps=steps,
    )


def chosen(
    logits: Float[Array, "batch vocab"], sampling: Sampling | None, step: Any
) -> tuple[Int[Array, "batch"], Float[Array, "batch"]]:
    """The next token of each row and its probability, as the logits have it.

    Args:
      logits: `[B, V]`.
      sampling: how tokens are drawn; None for the most likely ones.
      step: which of the random numbers of each row draws.
    """
    if sampling is None:
        return likeliest(logits)
    token = draw(logits, sampling, step)
    return token, probability_of(token, logits)


def probability_of(
    tokens: Int[Array, "batch"], logits: Float[Array, "batch vocab"]
) -> Float[Array, "batch"]:
    """The probability of one token of each row."""
    own = jnp.take_along_axis(logits, tokens[:, None], axis=1)[:, 0]
    return jnp.exp(own - jax.nn.logsumexp(logits, axis=-1))
