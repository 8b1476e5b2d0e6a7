"""One decoder for all families, driven by its config: Flax NNX inside, plain dicts outside.

Reads top to bottom: norm, attention, MLP, block, forward, head, initial parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from onceedit_jax.distributed.mesh import constrain
from onceedit_jax.models.cache import (
    Cache,
    init_cache,
    padded_positions,
    rollback,
    write_positions,
)
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.layout import (
    Params,
    group_size,
    layer_groups,
    split_layers,
    stack_layers,
    unstack_layers,
)
from onceedit_jax.models.quantization import widened
from onceedit_jax.models.rope import rotate, rotation

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

# Finite, so that a row with nothing to attend to (padding) gives numbers and not NaN.
NEG_INF = -1e30

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def _einsum(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Contract in the dtype of `x`, accumulate in float32.

    Accelerators round float32 operands by default; a compute dtype named float32 means float32.
    """
    precision = "highest" if x.dtype == jnp.float32 else None
    return jnp.einsum(
        spec, x, y.astype(x.dtype), precision=precision, preferred_element_type=jnp.float32
    )


def _project(spec: str, x: jax.Array, kernel: nnx.Param, bias: nnx.Param | None) -> jax.Array:
    out = _einsum(spec, x, kernel[...])
    if bias is not None:
        out = out + bias[...].astype(jnp.float32)
    return out.astype(x.dtype)


class _Init:
    """Hands modules their initial parameters, of one dtype, from one stream of keys."""

    def __init__(self, key: jax.Array, dtype: DTypeLike) -> None:
        self.rngs, self.dtype = nnx.Rngs(key), dtype

    def normal(self, *shape: int, fan_in: int) -> nnx.Param:
        """Gaussian with variance 1 / fan_in."""
        values = jax.random.normal(self.rngs.params(), shape, jnp.float32) * fan_in**-0.5
        return nnx.Param(values.astype(self.dtype))

    def constant(self, value: float, *shape: int) -> nnx.Param:
        return nnx.Param(jnp.full(shape, value, self.dtype))

    def bias(self, wanted: bool, *shape: int) -> nnx.Param | None:
        return self.constant(0.0, *shape) if wanted else None


class Norm(nnx.Module):
    """RMS or layer norm over the last axis, in float32."""

    def __init__(self, config: ModelConfig, init: _Init, size: int, kind: str) -> None:
        self.eps, self.offset, self.kind = config.norm_eps, config.norm_offset, kind
        self.scale = init.constant(1.0 - config.norm_offset, size)
        self.bias = init.bias(kind == "layer", size)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y = y * (self.scale[...].astype(jnp.float32) + self.offset)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention; the caller gives the mask, the rotation and where keys are kept."""

    def __init__(self, config: ModelConfig, init: _Init) -> None:
        d, k = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_heads, config.num_kv_heads
        self.config = config
        self.wq = init.normal(d, heads, k, fan_in=d)
        self.wk = init.normal(d, kv_heads, k, fan_in=d)
        self.wv = init.normal(d, kv_heads, k, fan_in=d)
        self.wo = init.normal(heads, k, d, fan_in=heads * k)
        self.bq = init.bias(config.qkv_bias, heads, k)
        self.bk = init.bias(config.qkv_bias, kv_heads, k)
        self.bv = init.bias(config.qkv_bias, kv_heads, k)
        self.bo = init.bias(config.attention_out_bias, d)
        self.q_norm = Norm(config, init, k, "rms") if config.qk_norm else None
        self.k_norm = Norm(config, init, k, "rms") if config.qk_norm else None

    def __call__(
        self,
        x: jax.Array,
        mask: jax.Array,
        turn: tuple[jax.Array, jax.Array] | None,
        remember: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]],
    ) -> jax.Array:
        """Attend from `x` [B, T, D] where `mask` [B, T, S] allows.

        `remember` takes the new keys and values [B, T, Hkv, K] and returns all S to attend to.
        """
        queries = _project("btd,dhk->bthk", x, self.wq, self.bq)
        keys = _project("btd,dhk->bthk", x, self.wk, self.bk)
        values = _project("btd,dhk->bthk", x, self.wv, self.bv)
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self.q_norm(queries), self.k_norm(keys)
        if turn is not None and self.config.rope is not None:
            interleaved = self.config.rope.interleaved
            queries = rotate(queries, turn, interleaved=interleaved)
            keys = rotate(keys, turn, interleaved=interleaved)
        keys, values = remember(keys, values)

        batch, length, heads, k = queries.shape
        groups = heads // self.config.num_kv_heads
        queries = queries.reshape(batch, length, self.config.num_kv_heads, groups, k)
        scores = _einsum("btngk,bsnk->bngts", queries, keys) * self.config.attention_scale
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEG_INF), axis=-1)
        mixed = _einsum("bngts,bsnk->btngk", weights.astype(x.dtype), values).astype(x.dtype)
        return _project("bthk,hkd->btd", mixed.reshape(batch, length, heads, k), self.wo, self.bo)


class MLP(nnx.Module):
    """Two projections around the activation, or three when it is gated."""

    def __init__(self, config: ModelConfig, init: _Init) -> None:
        d, f, bias = config.hidden_size, config.mlp_size, config.mlp_bias
        self.activation = config.activation
        self.gate = init.normal(d, f, fan_in=d) if config.gated_mlp else None
        self.up = init.normal(d, f, fan_in=d)
        self.down = init.normal(f, d, fan_in=f)
        self.gate_bias = init.bias(bias and config.gated_mlp, f)
        self.up_bias = init.bias(bias, f)
        self.down_bias = init.bias(bias, d)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.write(self.read(x))

    def read(self, x: jax.Array) -> jax.Array:
        """From `x` [B, T, D] to what the down-projection reads, [B, T, F]."""
        inner = _project("btd,df->btf", x, self.up, self.up_bias)
        activation = _ACTIVATIONS[self.activation]
        if self.gate is None:
            return activation(inner)
        return activation(_project("btd,df->btf", x, self.gate, self.gate_bias)) * inner

    def write(self, inner: jax.Array) -> jax.Array:
        """What the down-projection writes, [B, T, D]."""
        return _project("btf,fd->btd", inner, self.down, self.down_bias)


class Block(nnx.Module):
    """One layer: attention and MLP around the residual stream, in sequence or in parallel."""

    def __init__(self, config: ModelConfig, init: _Init) -> None:
        d, kind = config.hidden_size, config.norm
        self.parallel = config.parallel_block
        self.attention_norm = Norm(config, init, d, kind)
        self.attention = Attention(config, init)
        self.attention_post_norm = Norm(config, init, d, kind) if config.post_norms else None
        self.mlp_norm = None if config.parallel_block else Norm(config, init, d, kind)
        self.mlp = MLP(config, init)
        self.mlp_post_norm = Norm(config, init, d, kind) if config.post_norms else None

    def __call__(self, x: jax.Array, **attention: Any) -> jax.Array:
        """Add this layer's attention and MLP to the stream `x` [B, T, D]."""
        normed = self.attention_norm(x)
        attended = self.attention(normed, **attention)
        if self.mlp_norm is None:
            return x + attended + self.mlp(normed)
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        x = x + attended
        out = self.mlp(self.mlp_norm(x))
        if self.mlp_post_norm is not None:
            out = self.mlp_post_norm(out)
        return x + out


@lru_cache(maxsize=64)
def _graphs(config: ModelConfig) -> tuple[Any, Any]:
    """The structure of a block and of the final norm, which `nnx.merge` fills with a dict."""

    def structure(build: Callable[[_Init], nnx.Module]) -> Any:
        return nnx.split(nnx.eval_shape(lambda: build(_Init(jax.random.key(0), jnp.float32))))[0]

    return (
        structure(lambda init: Block(config, init)),
        structure(lambda init: Norm(config, init, config.hidden_size, config.norm)),
    )


class Probe(NamedTuple):
    """Where `hidden_states` lets its caller into a layer, which has to be in a group of its own.

    `mlp` takes its place: from the MLP and what it reads [B, T, D] to what it writes; `stream` is
    shown the residual stream [B, T, D] after the layer.
    """

    layer: int
    mlp: Callable[[MLP, jax.Array], jax.Array]
    stream: Callable[[jax.Array], None]


def forward(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache | None = None,
    *,
    compute_dtype: DTypeLike = "float32",
) -> tuple[jax.Array, Cache | None]:
    """Next-token logits at every column.

    Args:
        params: Parameter tree of `init_params`; its layers in any layout.
        config: Static under jit.
        tokens: [B, T] int32; the ids under padding are read but never attended to.
        positions: [B, T] int32 place of every token in its row; -1 marks padding, on either side.
        cache: From `init_cache`, with room for T more columns, or None. A query attends to the
            cached columns and the new ones alike: to those at positions 0..its own.
        compute_dtype: Operands of every matrix product; sums, softmax, norms, rope are float32.

    Returns:
        Logits [B, T, V] float32, `NEG_INF` in the rows that are no token, and the longer cache
        (None without one).
    """
    hidden, cache = hidden_states(
        params, config, tokens, positions, cache, compute_dtype=compute_dtype
    )
    return unembed(params, config, hidden, compute_dtype=compute_dtype), cache


def hidden_states(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    cache: Cache | None = None,
    *,
    segments: jax.Array | None = None,
    compute_dtype: DTypeLike = "float32",
    probe: Probe | None = None,
) -> tuple[jax.Array, Cache | None]:
    """`forward` without the head: states [B, T, D] after the final norm, in `compute_dtype`.

    `segments` [B, T] int32 lets several texts share a row, without a cache: a token attends to
    tokens of its own segment alone, and positions start anew in each. `probe` is let into a layer.
    """
    positions = positions.astype(jnp.int32)
    key_positions = positions if cache is None else write_positions(cache, positions)
    block_graph, norm_graph = _graphs(config)

    distance = positions[:, :, None] - key_positions[:, None, :]
    visible = (key_positions[:, None, :] >= 0) & (distance >= 0)
    if segments is not None:
        visible &= segments[:, :, None] == segments[:, None, :]
    nearby = visible & (distance < (config.sliding_window or 0))
    clipped = jnp.maximum(positions, 0)
    turn = local_turn = None
    if config.rope is not None:
        turn = rotation(clipped, config.rope)
        local_turn = rotation(clipped, config.rope, local=True)

    def layer(
        stream: tuple[jax.Array, ...],
        weights: Params,
        index: Any,
        sliding: Any,
        probe: Probe | None = None,
    ) -> tuple[jax.Array, ...]:
        x, *stored = stream

        def remember(*new: jax.Array) -> tuple[jax.Array, jax.Array]:
            if cache is None:
                return new[0], new[1]
            start = (index, 0, cache["length"], 0, 0)
            # Written into the carried buffers, not returned as scan outputs, which would copy
            # every layer's whole cache at every step.
            stored[:] = [
                jax.lax.dynamic_update_slice(old, columns[None].astype(old.dtype), start)
                for old, columns in zip(stored, new, strict=True)
            ]
            keys, values = (jax.lax.dynamic_index_in_dim(a, index, 0, False) for a in stored)
            return keys, values

        # Here and not before: only one layer's weights are ever wide.
        block = nnx.merge(block_graph, widened(weights, compute_dtype))
        if probe is not None:
            block.mlp = partial(probe.mlp, block.mlp)
        x = block(
            constrain(x, "batch", "length", None),
            mask=_pick(sliding, nearby, visible),
            turn=_pick(sliding, local_turn, turn),
            remember=remember,
        )
        if probe is not None:
            probe.stream(x)
        return x, *stored

    x = _embed(params["embed"], config, tokens, clipped, jnp.dtype(compute_dtype))
    stream: tuple[jax.Array, ...] = (x,) if cache is None else (x, cache["keys"], cache["values"])
    first = 0
    for group in layer_groups(params["layers"]):
        size = group_size(group)
        flags = config.sliding_layers[first : first + size]
        if size == 1:
            opened = probe if probe is not None and probe.layer == first else None
            stream = layer(stream, jax.tree.map(lambda a: a[0], group), first, flags[0], opened)
        else:
            uniform = flags[0] if len(set(flags)) == 1 else None

            def step(carry: Any, xs: Any, uniform: bool | None = uniform) -> tuple[Any, None]:
                weights, index, sliding = xs
                return layer(carry, weights, index, sliding if uniform is None else uniform), None

            indices = np.arange(first, first + size, dtype=np.int32)
            stream, _ = jax.lax.scan(step, stream, (group, indices, np.array(flags)))
        first += size

    if cache is not None:
        cache = {
            "keys": stream[1],
            "values": stream[2],
            "positions": key_positions,
            "length": cache["length"] + positions.shape[1],
        }
    return nnx.merge(norm_graph, params["final_norm"])(stream[0]), cache


def _pick(sliding: Any, local: Any, everywhere: Any) -> Any:
    """`local` for sliding layers: at trace time where the flag is known, else by a select."""
    if isinstance(sliding, bool):
        return local if sliding else everywhere
    return jax.tree.map(lambda a, b: jnp.where(sliding, a, b), local, everywhere)


def _embed(
    embed: Params, config: ModelConfig, tokens: jax.Array, positions: jax.Array, dtype: np.dtype
) -> jax.Array:
    # Whole rows, so that what is taken goes where its token is.
    table = constrain(embed["tokens"], "vocab", None)
    x = jnp.take(table, tokens, axis=0, mode="clip").astype(dtype)
    if config.embedding_scale != 1.0:
        x = x * jnp.asarray(config.embedding_scale, dtype)
    if "positions" in embed:
        x = x + jnp.take(embed["positions"], positions, axis=0, mode="clip").astype(dtype)
    return x


def unembed(
    params: Params, config: ModelConfig, hidden: jax.Array, *, compute_dtype: DTypeLike = "float32"
) -> jax.Array:
    """Logits [..., V] float32 of final states `hidden` [..., D]; no-token rows are `NEG_INF`."""
    hidden = hidden.astype(compute_dtype)
    head = params.get("head", {})
    if config.tie_embeddings:
        logits = _einsum("...d,vd->...v", hidden, params["embed"]["tokens"])
    else:
        logits = _einsum("...d,dv->...v", hidden, head["kernel"])
    if "bias" in head:
        logits = logits + head["bias"].astype(jnp.float32)
    if config.num_tokens < config.vocab_size:
        logits = jnp.where(jnp.arange(config.vocab_size) < config.num_tokens, logits, NEG_INF)
    return logits


def input_embeddings(params: Params) -> jax.Array:
    """The embedding table [V, D], unscaled, padding rows included."""
    return params["embed"]["tokens"]


def init_params(config: ModelConfig, key: jax.Array, dtype: DTypeLike = jnp.float32) -> Params:
    """Random parameters, layers stacked: the shape of the tree every loader fills.

    Returns:
        `embed`: `tokens` [V, D] and, with learned positions, `positions` [P, D]. `layers`: leaves
        with a leading axis L (`attention`: wq [D, H, K], wk and wv [D, Hkv, K], wo [H, K, D], bq,
        bk, bv, bo, `q_norm`, `k_norm`; `mlp`: gate and up [D, F], down [F, D], gate_bias, up_bias,
        down_bias; `attention_norm`, `attention_post_norm`, `mlp_norm`, `mlp_post_norm`: scale,
        bias). `final_norm`. `head`: kernel [D, V] unless tied, bias [V]. Leaves that the config
        has no use for are absent.
    """
    outer, *layers = jax.random.split(key, config.num_layers + 1)
    init, size = _Init(outer, dtype), config.hidden_size

    def block(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(Block(config, _Init(key, dtype))))

    embed = {"tokens": init.normal(config.vocab_size, size, fan_in=size)}
    if config.rope is None:
        embed["positions"] = init.normal(config.max_positions, size, fan_in=size)
    head = {}
    if not config.tie_embeddings:
        head["kernel"] = init.normal(size, config.vocab_size, fan_in=size)
    if config.head_bias:
        head["bias"] = init.constant(0.0, config.vocab_size)
    params = {
        "embed": {name: leaf[...] for name, leaf in embed.items()},
        "layers": jax.vmap(block)(jnp.stack(layers)),
        "final_norm": nnx.to_pure_dict(nnx.state(Norm(config, init, size, config.norm))),
    }
    if head:
        params["head"] = {name: leaf[...] for name, leaf in head.items()}
    return params


def param_shapes(config: ModelConfig, dtype: DTypeLike = jnp.float32) -> Params:
    """`init_params`' tree with a `jax.ShapeDtypeStruct` at every leaf; allocates nothing."""
    return jax.eval_shape(lambda key: init_params(config, key, dtype), jax.random.key(0))
