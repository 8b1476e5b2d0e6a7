"""Parameters over a mesh: the logical axes of every leaf, and heads that divide among devices."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from onceedit_jax.distributed.mesh import Axes, constrain, lay, sharding, tensor_parts
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import Params

# Logical axes of a layer's leaves, without the layer axis, by the leaf's name.
_LAYER_AXES: dict[str, Axes] = {
    "wq": ("embed", "heads", "head_dim"),
    "wk": ("embed", "heads", "head_dim"),
    "wv": ("embed", "heads", "head_dim"),
    "wo": ("heads", "head_dim", "embed"),
    "bq": ("heads", "head_dim"),
    "bk": ("heads", "head_dim"),
    "bv": ("heads", "head_dim"),
    "bo": ("embed",),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
    "gate_bias": ("mlp",),
    "up_bias": ("mlp",),
    "down_bias": ("embed",),
    # Norms are small, and every device needs the whole of them.
    "scale": (None,),
    "bias": (None,),
}
_OUTER_AXES: dict[tuple[str, str], Axes] = {
    ("embed", "tokens"): ("vocab", "embed"),
    ("embed", "positions"): (None, "embed"),
    ("head", "kernel"): ("embed", "vocab"),
    ("head", "bias"): ("vocab",),
}


def param_axes(params: Params) -> Params:
    """The logical axes of every leaf of a parameter tree, its layers in any layout."""

    def axes(path: Any, leaf: Any) -> Axes:
        names = _names(path)
        if names[0] == "layers":
            return ("layers", *_LAYER_AXES[names[-1]])
        return _OUTER_AXES.get((names[0], names[-1]), (None,) * len(leaf.shape))

    tree: Params = jax.tree_util.tree_map_with_path(axes, params)
    return tree


def param_shardings(mesh: Mesh, params: Params) -> Params:
    """The sharding over a mesh of every leaf of a parameter tree (arrays or their shapes)."""
    shardings: Params = jax.tree.map(
        lambda leaf, axes: sharding(mesh, axes, leaf.shape), params, param_axes(params)
    )
    return shardings


def place(mesh: Mesh, params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Put a model on a mesh to run it (not to train it), with heads that divide among `tensor`.

    Returns:
      The parameters on the mesh, and their configuration.
    """
    parts = mesh.shape.get("tensor", 1)
    fitted = fit_heads(params, config, parts)
    return lay(fitted, param_shardings(mesh, fitted)), fitted_config(config, parts)


def divided(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Inside a training step under a mesh: lay the leaves out, with heads that divide.

    The trained parameters themselves keep their number of heads. Without a mesh, or with one that
    does not split heads, the arguments are returned unchanged.
    """
    parts = tensor_parts()
    if parts == 1:
        return params, config
    fitted = fit_heads(params, config, parts)
    laid = jax.tree.map(lambda leaf, axes: constrain(leaf, *axes), fitted, param_axes(fitted))
    return laid, fitted_config(config, parts)


def fitted_config(config: ModelConfig, parts: int) -> ModelConfig:
    """The configuration of a model after `fit_heads`."""
    copies, queries = _copies(config, parts)
    kv_heads = config.num_kv_heads * copies
    return dataclasses.replace(config, num_heads=kv_heads * queries, num_kv_heads=kv_heads)


def fit_heads(params: Params, config: ModelConfig, parts: int) -> Params:
    """The same function, with numbers of heads that `parts` divides.

    Each key/value head is copied as often as needed, and its queries are distributed over the
    copies. Where they do not divide evenly, heads of zeros are added: the output projection is zero
    for such a head. Gradients flow back through this function to the original parameters.

    Args:
      params: parameter tree, its layers in any layout; perhaps with `adapters`.
      config: its configuration.
      parts: number of devices that share the heads.
    """
    copies, new_queries = _copies(config, parts)
    if copies == 1:
        return params
    kv_heads, old_queries = config.num_kv_heads, config.num_heads // config.num_kv_heads
    added = copies * new_queries - old_queries

    def pad_queries(leaf: jax.Array, axis: int) -> jax.Array:
        before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
        grouped = leaf.reshape(*before, kv_heads, old_queries, *after)
        widths = [(0, 0)] * grouped.ndim
        widths[axis + 1] = (0, added)
        padded = jnp.pad(grouped, widths)
        return padded.reshape(*before, kv_heads * copies * new_queries, *after)

    def fit(path: Any, leaf: jax.Array) -> jax.Array:
        name = _names(path)[-1]
        if name not in ("wq", "bq", "wo", "wk", "wv", "bk", "bv"):
            return leaf
        axis = 1 + _LAYER_AXES[name].index("heads")
        if name == "wo" and getattr(path[-1], "name", None) == "scale":
            return leaf  # the scale of an output channel, which all heads share
        if name in ("wq", "bq", "wo"):
            return pad_queries(leaf, axis)
        return jnp.repeat(leaf, copies, axis=axis)

    def fit_factors(path: Any, leaf: jax.Array) -> jax.Array:
        name, side = _names(path)[-2:]
        # A has the matrix's inputs after two axes, and B its outputs after three.
        if (name, side) == ("wq", "b"):
            return pad_queries(leaf, 3)
        if (name, side) == ("wo", "a"):
            return pad_queries(leaf, 2)
        if name in ("wk", "wv") and side == "b":
            return jnp.repeat(leaf, copies, axis=3)
        return leaf

    fitted = {**params, "layers": jax.tree_util.tree_map_with_path(fit, params["layers"])}
    if "adapters" in params:
        adapters = jax.tree_util.tree_map_with_path(fit_factors, params["adapters"])
        fitted["adapters"] = adapters
    return fitted


def _names(path: Any) -> list[str]:
    """The dict keys on the path to a leaf; the fields of an `Int8` leaf are no dict keys."""
    return [str(entry.key) for entry in path if hasattr(entry, "key")]


def _copies(config: ModelConfig, parts: int) -> tuple[int, int]:
    """Copies of each key/value head, and queries of each copy."""
    copies = math.lcm(config.num_kv_heads, parts) // config.num_kv_heads
    if copies > 1 and config.wide_qk_norm:
        raise InputError(
            f"{config.num_kv_heads} key/value heads on {parts} devices: {config.family} normalises "
            f"all heads together, so none can be added; choose a divisor of {config.num_kv_heads}"
        )
    return copies, -(-(config.num_heads // config.num_kv_heads) // copies)
