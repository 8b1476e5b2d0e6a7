"""The decoder with one layer's MLP laid open: what it reads, what it writes, and a change to it.

What editing methods call a key is what the down-projection reads; a value is what it writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import MLP, _embed, _graphs, _pick
from onceedit_jax.models.layout import Params, group_size, layer_groups, split_layers
from onceedit_jax.models.rope import rotation

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
    """`decoder.hidden_states`, without a cache, with the MLP of `layer` laid open.

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
    positions = positions.astype(jnp.int32)
    block_graph, norm_graph = _graphs(config)
    distance = positions[:, :, None] - positions[:, None, :]
    visible = (positions[:, None, :] >= 0) & (distance >= 0)
    nearby = visible & (distance < (config.sliding_window or 0))
    clipped = jnp.maximum(positions, 0)
    turn = local_turn = None
    if config.rope is not None:
        turn = rotation(clipped, config.rope)
        local_turn = rotation(clipped, config.rope, local=True)
    seen: list[tuple[jax.Array, jax.Array]] = []

    def run(x: jax.Array, weights: Params, sliding: Any, opened: bool = False) -> jax.Array:
        block = nnx.merge(block_graph, weights)
        if opened:
            mlp = block.mlp

            def changed(normed: jax.Array) -> jax.Array:
                seen.append((_key(mlp, weights["mlp"], normed), mlp(normed)))
                return change(*seen[-1])

            block.mlp = changed
        return block(
            x,
            mask=_pick(sliding, nearby, visible),
            turn=_pick(sliding, local_turn, turn),
            remember=lambda keys, values: (keys, values),
        )

    x = _embed(params["embed"], config, tokens, clipped, jnp.dtype(compute_dtype))
    stream, first = x, 0
    for group in layer_groups(isolate_layer(params, layer)["layers"]):
        size = group_size(group)
        flags = config.sliding_layers[first : first + size]
        if size == 1:
            x = run(x, jax.tree.map(lambda a: a[0], group), flags[0], first == layer)
        else:
            uniform = flags[0] if len(set(flags)) == 1 else None

            def step(x: jax.Array, xs: Any, uniform: bool | None = uniform) -> Any:
                weights, sliding = xs
                return run(x, weights, sliding if uniform is None else uniform), None

            x, _ = jax.lax.scan(step, x, (group, np.array(flags)))
        if first == layer:
            stream = x
        first += size
    return Observed(nnx.merge(norm_graph, params["final_norm"])(x), *seen[0], stream)


def _key(mlp: MLP, weights: Params, normed: jax.Array) -> jax.Array:
    """What the down-projection reads is what the MLP gives with the identity in its place."""
    size = weights["down"].shape[0]
    reader = nnx.clone(mlp)
    reader.down, reader.down_bias = nnx.Param(jnp.eye(size, dtype=normed.dtype)), None
    return reader(normed)
