"""Observe and change the MLP of one layer during a forward pass.

Editing methods call the input of the down-projection a key, and its output a value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Probe, hidden_states
from onceedit_jax.models.layers import MLP
from onceedit_jax.models.layout import group_size, layer_groups, split_layers
from onceedit_jax.types import Hidden, Params, Positions, Tokens

Change = Callable[[jax.Array, jax.Array], jax.Array]
"""From the key [B, T, F] and the output [B, T, D] of an MLP to the output that is used."""


class Observed(NamedTuple):
    """What `observe` returns, in the compute dtype.

    Attributes:
        states: After the final norm, with the change.
        key: What the down-projection of the layer reads.
        output: What it writes, before the change (and before a post-norm).
        stream: The residual stream after the layer, with the change.
    """

    states: Hidden
    key: Float[Array, "batch length mlp"]
    output: Hidden
    stream: Hidden


def isolate_layer(params: Params, layer: int) -> Params:
    """The same parameters with `layer` in a group of its own, as `observe` runs them.

    Raises:
        InputError: The model has no such layer.
    """
    sizes = [group_size(group) for group in layer_groups(params["layers"])]
    count = sum(sizes)
    if not 0 <= layer < count:
        raise InputError(
            f"layer {layer} does not exist: the model's layers are 0 to {count - 1}; give one of "
            "these"
        )
    if (layer, 1) in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False):
        return params
    return split_layers(params, tuple(size for size in (layer, 1, count - layer - 1) if size))


def observe(
    params: Params,
    config: ModelConfig,
    tokens: Tokens,
    positions: Positions,
    layer: int,
    change: Change = lambda key, output: output,
) -> Observed:
    """`decoder.hidden_states`, with access to the MLP of one layer.

    Args:
        params: Parameter tree, its layers in any layout (that of `isolate_layer` avoids a copy).
        config: Static under jit.
        tokens: Token ids.
        positions: Place of every token in its row; -1 marks padding.
        layer: Number of the layer; static under jit.
        change: From the MLP's key and output to the output that is used.

    Raises:
        InputError: The model has no such layer.
    """
    observed: list[jax.Array] = []

    def mlp(module: MLP, normed: jax.Array) -> jax.Array:
        key = module.read(normed)
        observed.extend((key, module.write(key)))
        return change(*observed)

    states, _ = hidden_states(
        isolate_layer(params, layer),
        config,
        tokens,
        positions,
        probe=Probe(layer, mlp, observed.append),
    )
    return Observed(states, *observed)
