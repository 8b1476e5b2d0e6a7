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
    rows = [list(text) for text in texts]
    return perplexity_of(losses(params, config, rows), rows)


def perplexity_of(summed: Float[np.ndarray, "texts"], texts: Sequence[Sequence[int]]) -> float:
    """Perplexity from each text's summed loss, as `losses` gives it.

    Raises:
      ValueError: no text has two tokens.
    """
    count = sum(max(len(text) - 1, 0) for text in texts)
    if not count:
        raise ValueError("perplexity: expected at least one text of two tokens or more")
    return float(np.exp(summed.sum() / count))


def losses(
    params: Params, config: ModelConfig, texts: Sequence[Sequence[int]]
) -> Float[np.ndarray, "texts"]:
    """The loss of each text, summed over all tokens but the first: float64, nats.

    Args:
      params: the model's parameters.
      config: its configuration.
      texts: token ids of each text; the loss of one token is 0.
    """
    found = np.zeros(len(texts))
    # Texts of similar length share a batch.
    order = sorted(
        (i for i, text in enumerate(texts) if len(text) > 1), key=lambda i: len(texts[i])
    )
    for start in range(0, len(order), ROWS):
        chosen = order[start : start + ROWS]
        batch = batch_of([list(texts[i]) for i in chosen], largest=ROWS)
        found[chosen] = np.asarray(text_losses(params, config, *batch))[: len(chosen)]
    return found


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
