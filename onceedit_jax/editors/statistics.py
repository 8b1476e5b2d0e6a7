"""The uncentered second moment of a layer's keys: the directions an update must leave alone."""

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from onceedit_jax.editing.batches import TextBatch
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.intervention import isolate_layer, observe
from onceedit_jax.types import Params

Moments = dict[int, jax.Array]  # C [F, F] of each layer


def second_moments(
    params: Params,
    config: ModelConfig,
    texts: Sequence[TextBatch],
    layers: Iterable[int],
    ridge: float = 0.0,
) -> Moments:
    """C of several layers, each with a ridge (see `ridged`).

    Args:
      params: of the model before any edit.
      config: its configuration.
      texts: texts about anything.
      layers: whose keys.
      ridge: 0 leaves C as it is.

    Raises:
      InputError: there are no texts, or the model has no such layer.
    """
    if not texts:
        raise InputError(
            "no texts to take statistics of the model over: this editor needs some; pass `texts`, "
            "a few hundred sentences about anything"
        )
    return {layer: ridged(second_moment(params, config, texts, layer), ridge) for layer in layers}


def second_moment(
    params: Params, config: ModelConfig, texts: Sequence[TextBatch], layer: int
) -> Float[Array, "F F"]:
    """C = E[k k^T] over every token of some texts (ROME, arXiv 2202.05262, section 3.1).

    Args:
      params: of the model before any edit.
      config: its configuration.
      texts: texts about anything.
      layer: whose keys.

    Returns:
      Symmetric, float32.

    Raises:
      ValueError: the texts hold no token.
      InputError: the model has no such layer.
    """
    isolated = isolate_layer(params, layer)
    total, count = jnp.zeros((config.mlp_size, config.mlp_size), jnp.float32), 0
    for tokens, positions in texts:
        total = total + _sum(isolated, config, tokens, positions, layer)
        count += int((positions >= 0).sum())
    if not count:
        raise ValueError("no tokens to take the second moment of keys over")
    return total / count


def ridged(moment: Float[Array, "F F"], ridge: float) -> Float[Array, "F F"]:
    """C plus `ridge` times its mean eigenvalue on the diagonal.

    A few thousand tokens span few directions of the keys: without a ridge, C has no usable inverse.
    """
    size = moment.shape[0]
    return moment + ridge * jnp.trace(moment) / size * jnp.eye(size, dtype=moment.dtype)


@partial(jax.jit, static_argnames=("config", "layer"))
def _sum(
    params: Params, config: ModelConfig, tokens: jax.Array, positions: jax.Array, layer: int
) -> jax.Array:
    keys = observe(params, config, tokens, positions, layer).key.astype(jnp.float32)
    keys = jnp.where((positions >= 0)[:, :, None], keys, 0)
    return jnp.einsum("btf,btg->fg", keys, keys, precision="highest")
