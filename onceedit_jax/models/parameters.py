"""The parameter tree of a model: its leaves and shapes, and random initial values."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from onceedit_jax.distributed.mesh import platform_of
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.dtypes import ComputeDtype, default_compute_dtype
from onceedit_jax.models.layers import Block, Initializer, Norm
from onceedit_jax.types import Params


def init_params(config: ModelConfig, key: Key[Array, ""], dtype: DTypeLike = jnp.float32) -> Params:
    """Random parameters with stacked layers; every loader fills a tree of this layout.

    Args:
        config: The model's.
        key: From `jax.random.key`.
        dtype: Of every leaf.

    Returns:
        `embed`: `tokens` [V, D] and, with learned positions, `positions` [P, D]. `layers`: leaves
        with a leading axis L (`attention`: wq [D, H, K], wk and wv [D, Hkv, K], wo [H, K, D], bq,
        bk, bv, bo, `q_norm`, `k_norm`; `mlp`: gate and up [D, F], down [F, D], gate_bias, up_bias,
        down_bias; `attention_norm`, `attention_post_norm`, `mlp_norm`, `mlp_post_norm`: scale,
        bias). `final_norm`: scale, bias. `head`: kernel [D, V] unless tied, bias [V]. Leaves that
        the config does not use are absent.
    """
    outer, *layers = jax.random.split(key, config.num_layers + 1)
    init, size = Initializer(outer, dtype), config.hidden_size

    def block(key: jax.Array) -> Params:
        params: Params = nnx.to_pure_dict(nnx.state(Block(config, Initializer(key, dtype))))
        return params

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
    """The tree of `init_params` with a `jax.ShapeDtypeStruct` at every leaf; allocates nothing."""
    shapes: Params = jax.eval_shape(lambda key: init_params(config, key, dtype), jax.random.key(0))
    return shapes


def parameter_count(config: ModelConfig) -> int:
    """Number of all parameters, embedding rows without a token included."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(config)))


def active_parameters(config: ModelConfig) -> int:
    """Number of parameters that every token is multiplied with: all but looked-up embeddings."""
    lookup = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    learned = 0 if config.rope else config.max_positions * config.hidden_size
    return parameter_count(config) - lookup - learned


def usual_compute_dtype(params: Params) -> ComputeDtype:
    """`default_compute_dtype` of parameters where they are, without training."""
    scale = params["final_norm"]["scale"]  # of the type of those that are not in eight bits
    return default_compute_dtype(platform_of(scale), str(scale.dtype))


def input_embeddings(params: Params) -> Float[Array, "vocab embed"]:
    """The embedding table, unscaled, padding rows included."""
    table: jax.Array = params["embed"]["tokens"]
    return table
