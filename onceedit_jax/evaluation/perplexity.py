"""Whether a model still writes well: its perplexity on texts that no edit is about."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from onceedit_jax.distributed.bucketing import batch_of
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import Params

ROWS = 4  # bounds the [ROWS, T, V] logits


def perplexity(params: Params, config: ModelConfig, texts: Sequence[Sequence[int]]) -> float:
    """The exponential of the mean loss (nats) of every token but the first of its text.

    Args:
      params: the model's parameters.
      config: its configuration.
      texts: token ids of each text; texts of one token are left out.

    Raises:
      ValueError: no text has two tokens.
    """
    rows = sorted((list(text) for text in texts if len(text) > 1), key=len)
    if not rows:
        raise ValueError("perplexity: expected at least one text of two tokens or more")
    losses = [
        text_losses(params, config, *batch_of(rows[start : start + ROWS], largest=ROWS))
        for start in range(0, len(rows), ROWS)
    ]
    total = float(np.sum([np.asarray(batch, np.float64).sum() for batch in losses]))
    return float(np.exp(total / sum(len(row) - 1 for row in rows)))


@partial(jax.jit, static_argnames="config")
def text_losses(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
) -> Float[Array, "batch"]:
    """The loss of each row, summed over all tokens but the first: `[B]` float32, nats.

    Args:
      params: the model's parameters.
      config: its configuration.
      tokens: `[B, T]` int32.
      positions: `[B, T]` int32, -1 on padding.
    """
    hidden, _ = hidden_states(params, config, tokens, positions)
    logits = unembed(params, config, hidden[:, :-1]).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    return jnp.sum(losses * (positions[:, 1:] >= 0), axis=1)
