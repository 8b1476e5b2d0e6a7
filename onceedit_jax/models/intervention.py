"""The decoder with one layer's MLP laid open: what it reads, what it writes, and a change to it.

What editing methods call a key is what the down-projection reads; a value is what it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import DTypeLike

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import MLP, Probe, hidden_states
from onceedit_jax.models.layout import Params, group_size, layer_groups, split_layers

Change = Callable[[jax.Array, jax.Array], jax.Array]


class Observed(NamedTuple):
    """A pass through the decoder with a layer laid open, in the compute dtype.

    `states` are those after the final norm, `stream` the residual stream after the layer, both
    with the change; `output` is the down-projection's, before it (and before a post-norm).
    """

    states: jax.Array  # [B, T, D]
    key: jax.Array  # [B, T, F]
    output: jax.Array  # [B, T, D]
    stream: jax.Array  # [B, T, D]


def isolate_layer(params: Params, layer: int) -> Params:
    """The same parameters with `layer` in a group of its own, as `observe` runs them.

    Raises:
        InputError: The model has no such layer.
    """
    sizes = [group_size(group) for group in layer_groups(params["layers"])]
    count = sum(sizes)
    if not 0 <= layer < count:
        raise InputError(f"layer {layer}: expected one of 0 to {count - 1}, the model's layers")
    if (layer, 1) in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False):
        return params
    return split_layers(params, tuple(size for size in (layer, 1, count - layer - 1) if size))


def observe(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    layer: int,
    change: Change = lambda key, output: output,
    *,
    compute_dtype: DTypeLike = "float32",
) -> Observed:
    """`decoder.hidden_states` with the MLP of `layer` laid open.

    Args:
        params: Parameter tree; its layers in any layout (`isolate_layer`'s is not copied).
        config: Static under jit.
        tokens: [B, T] int32.
        positions: [B, T] int32; -1 marks padding.
        layer: Whose MLP; static under jit.
        change: From the MLP's key [B, T, F] and output [B, T, D] to the output that is used.
        compute_dtype: Operands of every matrix product.

    Raises:
        InputError: The model has no such layer.
    """
    seen: list[jax.Array] = []

    def mlp(module: MLP, normed: jax.Array) -> jax.Array:
        key = module.read(normed)
        seen.extend((key, module.write(key)))
        return change(*seen)

    states, _ = hidden_states(
        isolate_layer(params, layer),
        config,
        tokens,
        positions,
        compute_dtype=compute_dtype,
        probe=Probe(layer, mlp, seen.append),
    )
    return Observed(states, *seen)
