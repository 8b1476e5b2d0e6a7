"""The decoder's layers as Flax NNX modules: norm, attention, MLP, and the block of all three."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from onceedit_jax.models.adapters import NO_FACTORS, Factors, low_rank_product
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.products import einsum
from onceedit_jax.models.rope import Rotation, rotate
from onceedit_jax.types import Hidden

# Finite, so that a row with nothing to attend to (padding) gives numbers and not NaN.
NEG_INF = -1e30

Heads = Float[Array, "batch length heads head"]
CacheUpdate = Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]
Parameter = nnx.Param[jax.Array]

_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def _project(
    spec: str,
    x: jax.Array,
    kernel: Parameter,
    bias: Parameter | None,
    factors: Mapping[str, jax.Array] | None = None,
) -> jax.Array:
    out = einsum(spec, x, kernel.get_value())  # perhaps an `Int8`
    if factors is not None:
        out = out + low_rank_product(x, factors).reshape(out.shape)
    if bias is not None:
        out = out + bias[...].astype(jnp.float32)
    return out.astype(x.dtype)


class Initializer:
    """Creates the initial parameters of modules: one dtype, one stream of random keys."""

    def __init__(self, key: jax.Array, dtype: DTypeLike) -> None:
        self.rngs, self.dtype = nnx.Rngs(key), dtype

    def normal(self, *shape: int, fan_in: int) -> Parameter:
        """Gaussian with variance 1 / fan_in."""
        values = jax.random.normal(self.rngs.params(), shape, jnp.float32) * fan_in**-0.5
        return nnx.Param(values.astype(self.dtype))

    def constant(self, value: float, *shape: int) -> Parameter:
        """The same value everywhere."""
        return nnx.Param(jnp.full(shape, value, self.dtype))

    def bias(self, used: bool, *shape: int) -> Parameter | None:
        """Zeros, or None for a model without this bias."""
        return self.constant(0.0, *shape) if used else None


class Norm(nnx.Module):
    """RMS norm or layer norm over the last axis, computed in float32."""

    def __init__(self, config: ModelConfig, init: Initializer, size: int, kind: str) -> None:
        self.eps, self.offset, self.kind = config.norm_eps, config.norm_offset, kind
        self.scale = init.constant(1.0 - config.norm_offset, size)
        self.bias = init.bias(kind == "layer", size)

    def __call__(self, x: Float[Array, "*lead size"]) -> Float[Array, "*lead size"]:
        """Normalise `x`; the result has its dtype."""
        y = x.astype(jnp.float32)
        if self.kind == "layer":
            y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        y = y * (self.scale[...].astype(jnp.float32) + self.offset)
        if self.bias is not None:
            y = y + self.bias[...].astype(jnp.float32)
        return y.astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention; the caller gives the mask, the rotation and the cache update."""

    def __init__(self, config: ModelConfig, init: Initializer) -> None:
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
        sizes = (heads * k, kv_heads * k) if config.wide_qk_norm else (k, k)
        self.q_norm = Norm(config, init, sizes[0], "rms") if config.qk_norm else None
        self.k_norm = Norm(config, init, sizes[1], "rms") if config.qk_norm else None

    def __call__(
        self,
        x: Hidden,
        mask: Bool[Array, "batch length slots"],
        rotation: Rotation | None,
        update_cache: CacheUpdate,
        factors: Factors = NO_FACTORS,
    ) -> Hidden:
        """Attend from every token of `x` to the columns that `mask` allows.

        Args:
            x: Normalised states.
            mask: For every query, which of the S key columns it attends to.
            rotation: Cosine and sine of the rotary embedding, None for learned positions.
            update_cache: From the new keys and values [B, T, Hkv, K] to those of all S columns.
            factors: Of the adapters of its matrices, by the matrix's name.
        """
        queries = _project("btd,dhk->bthk", x, self.wq, self.bq, factors.get("wq"))
        keys = _project("btd,dhk->bthk", x, self.wk, self.bk, factors.get("wk"))
        values = _project("btd,dhk->bthk", x, self.wv, self.bv, factors.get("wv"))
        if self.q_norm is not None and self.k_norm is not None:
            queries, keys = self._normed(self.q_norm, queries), self._normed(self.k_norm, keys)
        if rotation is not None and self.config.rope is not None:
            interleaved = self.config.rope.interleaved
            queries = rotate(queries, rotation, interleaved=interleaved)
            keys = rotate(keys, rotation, interleaved=interleaved)
        keys, values = update_cache(keys, values)

        batch, length, heads, k = queries.shape
        groups = heads // self.config.num_kv_heads
        queries = queries.reshape(batch, length, self.config.num_kv_heads, groups, k)
        scores = einsum("btngk,bsnk->bngts", queries, keys) * self.config.attention_scale
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, NEG_INF), axis=-1)
        mixed = einsum("bngts,bsnk->btngk", weights.astype(x.dtype), values).astype(x.dtype)
        mixed = mixed.reshape(batch, length, heads, k)
        return _project("bthk,hkd->btd", mixed, self.wo, self.bo, factors.get("wo"))

    def _normed(self, norm: Norm, x: Heads) -> Heads:
        """Queries or keys, normalised per head or over all heads together."""
        if not self.config.wide_qk_norm:
            return norm(x)
        return norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape)


class MLP(nnx.Module):
    """Two projections around the activation, or three when it is gated."""

    def __init__(self, config: ModelConfig, init: Initializer) -> None:
        d, f, bias = config.hidden_size, config.mlp_size, config.mlp_bias
        self.activation = config.activation
        self.gate = init.normal(d, f, fan_in=d) if config.gated_mlp else None
        self.up = init.normal(d, f, fan_in=d)
        self.down = init.normal(f, d, fan_in=f)
        self.gate_bias = init.bias(bias and config.gated_mlp, f)
        self.up_bias = init.bias(bias, f)
        self.down_bias = init.bias(bias, d)

    def __call__(self, x: Hidden, factors: Factors = NO_FACTORS) -> Hidden:
        """`write(read(x))`: the MLP's output for normalised states."""
        return self.write(self.read(x, factors), factors)

    def read(self, x: Hidden, factors: Factors = NO_FACTORS) -> Float[Array, "batch length mlp"]:
        """The input of the down-projection."""
        inner = _project("btd,df->btf", x, self.up, self.up_bias, factors.get("up"))
        activation = _ACTIVATIONS[self.activation]
        if self.gate is None:
            return activation(inner)
        gate = _project("btd,df->btf", x, self.gate, self.gate_bias, factors.get("gate"))
        return activation(gate) * inner

    def write(
        self, inner: Float[Array, "batch length mlp"], factors: Factors = NO_FACTORS
    ) -> Hidden:
        """The output of the down-projection."""
        return _project("btf,fd->btd", inner, self.down, self.down_bias, factors.get("down"))


class Block(nnx.Module):
    """One layer: attention and MLP around the residual stream, in sequence or in parallel."""

    def __init__(self, config: ModelConfig, init: Initializer) -> None:
        d, kind = config.hidden_size, config.norm
        self.attention_norm = Norm(config, init, d, kind) if config.pre_norms else None
        self.attention = Attention(config, init)
        self.attention_post_norm = Norm(config, init, d, kind) if config.post_norms else None
        self.is_parallel = config.parallel_block
        has_own = config.pre_norms and not self.is_parallel
        self.mlp_norm = Norm(config, init, d, kind) if has_own else None
        self.mlp = MLP(config, init)
        self.mlp_post_norm = Norm(config, init, d, kind) if config.post_norms else None

    def __call__(
        self, x: Hidden, *, adapters: Mapping[str, Factors] | None = None, **attention: Any
    ) -> Hidden:
        """Add the outputs of attention and MLP to the residual stream `x`.

        Args:
            x: The stream before the layer.
            adapters: Factors of the layer's adapters, by module; None for a layer without any.
            **attention: The further arguments of `Attention`.
        """
        mlp: Callable[..., Hidden] = self.mlp
        attend: Callable[..., Hidden] = self.attention
        if adapters is not None:
            mlp = partial(mlp, factors=adapters.get("mlp", NO_FACTORS))
            attend = partial(attend, factors=adapters.get("attention", NO_FACTORS))
        normed = x if self.attention_norm is None else self.attention_norm(x)
        attended = attend(normed, **attention)
        if self.is_parallel:
            return x + attended + mlp(normed)
        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        x = x + attended
        out = mlp(x if self.mlp_norm is None else self.mlp_norm(x))
        if self.mlp_post_norm is not None:
            out = self.mlp_post_norm(out)
        return x + out
