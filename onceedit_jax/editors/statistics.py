"""The uncentered second moment of a layer's keys: what an update shall leave alone."""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params
from onceedit_jax.models.intervention import isolate_layer, observe


def second_moment(
    params: Params,
    config: ModelConfig,
    batches: Iterable[tuple[jax.Array, jax.Array]],
    layer: int,
) -> jax.Array:
    """C = E[k k^T] over every token of some texts (ROME, arXiv 2202.05262, section 3.1).

    Args:
      params: of the model before any edit.
      config: its configuration.
      batches: tokens [B, T] and positions [B, T] int32, -1 on padding.
      layer: whose keys.

    Returns:
      [F, F] float32, symmetric.

    Raises:
      ValueError: the batches hold no token.
      InputError: the model has no such layer.
    """
    isolated = isolate_layer(params, layer)
    total, count = jnp.zeros((config.mlp_size, config.mlp_size), jnp.float32), 0
    for tokens, positions in batches:
        total = total + _sum(isolated, config, tokens, positions, layer)
        count += int((positions >= 0).sum())
    if not count:
        raise ValueError("no tokens to take the second moment of keys over")
    return total / count


def ridged(moment: jax.Array, ridge: float) -> jax.Array:
    """C plus `ridge` times its mean eigenvalue on the diagonal.

    A few thousand tokens span few directions of [F]: without it C has no inverse to speak of.
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
