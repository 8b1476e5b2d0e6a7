"""The forward pass of every model family: one decoder, driven by its `ModelConfig`.

Parameters are plain dicts (`parameters`); Flax NNX modules (`layers`) are filled with them layer by
layer inside the pass.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.distributed.mesh import constrain
from onceedit_jax.models.adapters import factors_of_groups
from onceedit_jax.models.cache import (
    Cache,
    init_cache,
    padded_positions,
    rollback,
    write_positions,
)
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.layers import MLP, NEG_INF, Block, Initializer, Norm
from onceedit_jax.models.layout import (
    group_size,
    layer_groups,
    split_layers,
    stack_layers,
    unstack_layers,
)
from onceedit_jax.models.parameters import init_params, input_embeddings, param_shapes
from onceedit_jax.models.products import einsum
from onceedit_jax.models.quantization import with_values, without_values
from onceedit_jax.models.rope import Rotation, rotation_at, unrotated
from onceedit_jax.types import AnyArray, Hidden, Params, Positions, Tokens

__all__ = [
    "NEG_INF",
    "Cache",
    "Params",
    "forward",
    "hidden_states",
    "init_cache",
    "init_params",
    "input_embeddings",
    "padded_positions",
    "param_shapes",
    "rollback",
    "split_layers",
    "stack_layers",
    "unembed",
    "unstack_layers",
]


class Probe(NamedTuple):
    """Hooks into one layer of `hidden_states`; the layer has to be a group of its own.

    Attributes:
        layer: Number of the layer.
        mlp: Takes the place of the MLP: from the module and its input [B, T, D] to its output.
        stream: Called with the residual stream [B, T, D] after the layer.
    """

    layer: int
    mlp: Callable[[MLP, jax.Array], jax.Array]
    stream: Callable[[jax.Array], None]


def forward(
    params: Params,
    config: ModelConfig,
    tokens: Tokens,
    positions: Positions,
    cache: Cache | None = None,
) -> tuple[Float[Array, "batch length vocab"], Cache | None]:
    """Next-token logits at every column.

    Args:
        params: Parameter tree of `init_params`; its layers in any layout.
        config: Static under jit; its `compute_dtype` is that of the operands of all products.
        tokens: Token ids; those under padding are read but never attended to.
        positions: Place of every token in its row; -1 marks padding, on either side.
        cache: From `init_cache`, with room for T more columns, or None. A query attends to cached
            and new columns alike: to those at positions from 0 to its own.

    Returns:
        Logits in float32, `NEG_INF` for embedding rows that are no token, and the extended cache
        (None without one).
    """
    hidden, cache = hidden_states(params, config, tokens, positions, cache)
    return unembed(params, config, hidden), cache


def hidden_states(
    params: Params,
    config: ModelConfig,
    tokens: Tokens,
    positions: Positions,
    cache: Cache | None = None,
    *,
    segments: Int[AnyArray, "batch length"] | None = None,
    probe: Probe | None = None,
    stream: Hidden | None = None,
    normed: bool = True,
) -> tuple[Hidden, Cache | None]:
    """`forward` without the head.

    Args:
        params: See `forward`.
        config: See `forward`.
        tokens: See `forward`.
        positions: See `forward`.
        cache: See `forward`.
        segments: Lets several texts share a row, without a cache: a token attends only to tokens
            of its own segment, and positions start at 0 in each.
        probe: Hooks into one layer.
        stream: The residual stream before the first of the layers, in place of the tokens'
            embeddings: of a model that is the upper part of another one.
        normed: Whether the final norm is applied; the lower part of a model gives its stream.

    Returns:
        States after the final norm, in the compute dtype, and the extended cache.
    """
    positions = jnp.asarray(positions, jnp.int32)
    key_positions = positions if cache is None else write_positions(cache, positions)
    shared = _shared(config, positions, key_positions, segments, cache)

    if stream is None:
        x = _embed(params["embed"], config, tokens, jnp.maximum(positions, 0))
    else:
        x = jnp.asarray(stream, config.compute_dtype)
    carry: _Carry = (x,) if cache is None else (x, cache["keys"], cache["values"])
    first = 0
    groups = layer_groups(params["layers"])
    for group, factors in zip(groups, factors_of_groups(params), strict=True):
        carry = _run_group(shared, carry, group, factors, first, probe)
        first += group_size(group)

    if cache is not None:
        cache = {
            "keys": carry[1],
            "values": carry[2],
            "positions": key_positions,
            "length": cache["length"] + positions.shape[1],
        }
    x = carry[0]
    return nnx.merge(shared.norm, params["final_norm"])(x) if normed else x, cache


def unembed(
    params: Params,
    config: ModelConfig,
    hidden: Float[AnyArray, "*lead embed"],
) -> Float[Array, "*lead vocab"]:
    """Float32 logits of final states; `NEG_INF` for embedding rows that are no token."""
    hidden = jnp.asarray(hidden, config.compute_dtype)
    head = params.get("head", {})
    if config.tie_embeddings:
        logits = einsum("...d,vd->...v", hidden, params["embed"]["tokens"])
    else:
        logits = einsum("...d,dv->...v", hidden, head["kernel"])
    if "bias" in head:
        logits = logits + head["bias"].astype(jnp.float32)
    if config.num_tokens < config.vocab_size:
        logits = jnp.where(jnp.arange(config.vocab_size) < config.num_tokens, logits, NEG_INF)
    return logits


# The residual stream and, with a cache, its keys and values [L, B, S, Hkv, K].
_Carry = tuple[jax.Array, ...]


class _Shared(NamedTuple):
    """What all layers of one pass have in common.

    Attributes:
        config: The model's.
        block: Structure of a block, which `nnx.merge` fills with a dict of parameters.
        norm: Structure of the final norm.
        visible: For every query, which columns a layer without a window attends to.
        nearby: The same within the sliding window.
        rotation: Rotary embedding of layers without a window, None for learned positions.
        local_rotation: That of sliding layers.
        cursor: The cache column to write to, None without a cache.
    """

    config: ModelConfig
    block: Any
    norm: Any
    visible: Bool[Array, "batch length slots"]
    nearby: Bool[Array, "batch length slots"]
    rotation: Rotation | None
    local_rotation: Rotation | None
    cursor: Int[Array, ""] | None


def _shared(
    config: ModelConfig,
    positions: jax.Array,
    key_positions: jax.Array,
    segments: AnyArray | None,
    cache: Cache | None,
) -> _Shared:
    distance = positions[:, :, None] - key_positions[:, None, :]
    visible = (key_positions[:, None, :] >= 0) & (distance >= 0)
    if segments is not None:
        visible &= segments[:, :, None] == segments[:, None, :]
    rotation = local_rotation = None
    if config.rope is not None:
        clipped = jnp.maximum(positions, 0)
        rotation = rotation_at(clipped, config.rope)
        local_rotation = rotation_at(clipped, config.rope, local=True)
    return _Shared(
        config,
        *_structures(config),
        visible=visible,
        nearby=visible & (distance < (config.sliding_window or 0)),
        rotation=rotation,
        local_rotation=local_rotation,
        cursor=None if cache is None else cache["length"],
    )


@lru_cache(maxsize=64)
def _structures(config: ModelConfig) -> tuple[Any, Any]:
    """The NNX structure of a block and of the final norm."""

    def structure(build: Callable[[Initializer], nnx.Module]) -> Any:
        module = nnx.eval_shape(lambda: build(Initializer(jax.random.key(0), jnp.float32)))
        return nnx.split(module)[0]

    return (
        structure(lambda init: Block(config, init)),
        structure(lambda init: Norm(config, init, config.hidden_size, config.norm)),
    )


def _run_group(
    shared: _Shared,
    carry: _Carry,
    group: Params,
    factors: Params | None,
    first: int,
    probe: Probe | None,
) -> _Carry:
    """Run a stack of consecutive layers, from number `first` up; a single layer without a scan."""
    size, config = group_size(group), shared.config
    rotated = config.rope_layers or (True,) * config.num_layers
    kinds = [(config.sliding_layers[i], rotated[i]) for i in range(first, first + size)]
    if size == 1:
        weights, own = jax.tree.map(lambda a: a[0], (group, factors))
        probe = probe if probe is not None and probe.layer == first else None
        return _run_layer(shared, carry, weights, own, first, kinds[0], probe)
    # A flag that all layers share is a plain bool: no select is traced.
    uniform = [flags[0] if len({*flags}) == 1 else None for flags in zip(*kinds, strict=True)]

    def step(carry: _Carry, layer: Any) -> tuple[_Carry, None]:
        weights, own, index, flags = layer
        kind = [flags[n] if same is None else same for n, same in enumerate(uniform)]
        weights = with_values(weights, group, index - first)
        return _run_layer(shared, carry, weights, own, index, kind), None

    indices = np.arange(first, first + size, dtype=np.int32)
    layers = without_values(group), factors, indices, np.array(kinds)
    carry, _ = jax.lax.scan(step, carry, layers)
    return carry


def _run_layer(
    shared: _Shared,
    carry: _Carry,
    weights: Params,
    factors: Params | None,
    index: Any,
    kind: Any,
    probe: Probe | None = None,
) -> _Carry:
    """Run one layer; its kind is whether it has a sliding window, and whether it is rotated."""
    x, *stored = carry
    sliding, rotated = kind
    rotation = _pick(sliding, shared.local_rotation, shared.rotation)
    if rotation is not None:
        rotation = _pick(rotated, rotation, unrotated(rotation))

    def update_cache(*new: jax.Array) -> tuple[jax.Array, jax.Array]:
        if shared.cursor is None:
            return new[0], new[1]
        start = (index, 0, shared.cursor, 0, 0)
        # Written into the carried buffers, not returned as scan outputs, which would copy
        # every layer's whole cache at every step.
        stored[:] = [
            jax.lax.dynamic_update_slice(old, columns[None].astype(old.dtype), start)
            for old, columns in zip(stored, new, strict=True)
        ]
        keys, values = (jax.lax.dynamic_index_in_dim(a, index, 0, False) for a in stored)
        return keys, values

    block = nnx.merge(shared.block, weights)
    if probe is not None:
        block.mlp = partial(probe.mlp, block.mlp)
    x = block(
        constrain(x, "batch", "length", None),
        mask=_pick(sliding, shared.nearby, shared.visible),
        rotation=rotation,
        update_cache=update_cache,
        adapters=factors,
    )
    if probe is not None:
        probe.stream(x)
    return x, *stored


def _pick(flag: Any, if_true: Any, if_false: Any) -> Any:
    """One of two trees by a flag: chosen when tracing if it is a bool, else by a select."""
    if isinstance(flag, bool):
        return if_true if flag else if_false
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), if_true, if_false)


def _embed(embed: Params, config: ModelConfig, tokens: AnyArray, positions: jax.Array) -> jax.Array:
    dtype = jnp.dtype(config.compute_dtype)
    # Constrained to whole rows, so that each row goes to the device of its token.
    table = constrain(embed["tokens"], "vocab", None)
    x = jnp.take(table, tokens, axis=0, mode="clip").astype(dtype)
    if config.embedding_scale != 1.0:
        x = x * jnp.asarray(config.embedding_scale, dtype)
    if "positions" in embed:
        x = x + jnp.take(embed["positions"], positions, axis=0, mode="clip").astype(dtype)
    return x
