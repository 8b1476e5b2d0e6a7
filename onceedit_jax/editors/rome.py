"""ROME: a fact is one key and one value of one layer (Meng et al. 2022, arXiv 2202.05262)."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from onceedit_jax.editors.layers import (
    Edit,
    at,
    down_projection,
    observed,
    with_down_projection,
)
from onceedit_jax.editors.values import ValueSettings, value_change
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, stack_layers
from onceedit_jax.models.intervention import isolate_layer


def rank_one_update(
    down: ArrayLike, inverse: ArrayLike, key: ArrayLike, value: ArrayLike
) -> jax.Array:
    """W + Lambda (C^-1 k*)^T, Lambda = (v* - W k*) / (C^-1 k*)^T k* (ROME, equation 2).

    The W' with W' k* = v* whose change matters least to other keys: it minimises
    tr((W' - W) C (W' - W)^T).

    Args:
      down: [F, D], W transposed.
      inverse: C^-1 [F, F].
      key: k* [F].
      value: v* [D].

    Returns:
      [F, D] float32; computed in float64 on the host, since C is far from well-conditioned.
    """
    down, inverse, key, value = (np.asarray(a, np.float64) for a in (down, inverse, key, value))
    direction = inverse @ key
    change = np.outer(direction, (value - key @ down) / (direction @ key))
    return jnp.asarray(down + change, jnp.float32)


def subject_key(params: Params, config: ModelConfig, edit: Edit, layer: int) -> jax.Array:
    """k* [F]: the key at the subject's last token, averaged over the prompts (ROME, equation 3)."""
    return at(edit.subject, observed(params, config, edit.prompts, layer).key).mean(axis=0)


def rome(
    params: Params,
    config: ModelConfig,
    edits: Iterable[Edit],
    layer: int,
    moment: jax.Array,
    settings: ValueSettings = ValueSettings(),  # noqa: B008 (frozen)
) -> Params:
    """One rank-one update after the other, each found on the model that the others have edited.

    Args:
      params: of the model before the edits; kept as they are.
      config: its configuration.
      edits: in the order in which they are applied.
      layer: the layer that is edited.
      moment: C [F, F] of its keys before any edit, positive definite.
      settings: see `ValueSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: the model has no such layer.
    """
    params = isolate_layer(params, layer)
    inverse = np.linalg.inv(np.asarray(moment, np.float64))
    for edit in edits:
        key = subject_key(params, config, edit, layer)
        down = down_projection(params, layer)
        # v* is W k* and its change; a bias of the projection stays what it is.
        value = key @ down + value_change(params, config, edit, layer, settings)
        params = with_down_projection(params, layer, rank_one_update(down, inverse, key, value))
    return stack_layers(params)
