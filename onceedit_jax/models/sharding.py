"""Parameters over a mesh: what each dimension holds, and heads that divide among the devices."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from onceedit_jax.distributed.mesh import Axes, constrain, lay, sharding, tensor_parts
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.layout import Params

# Logical axes of a layer's leaves, without the axis of the layers, by the leaf's name.
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
    # Norms are small and every device needs the whole of them.
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

    return jax.tree_util.tree_map_with_path(axes, params)


def param_shardings(mesh: Mesh, params: Params) -> Params:
    """How every leaf of a parameter tree (arrays or their shapes) lies over a mesh."""
    return jax.tree.map(
        lambda leaf, axes: sharding(mesh, axes, leaf.shape), params, param_axes(params)
    )


def place(mesh: Mesh, params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """A model laid over a mesh, with heads that divide among `tensor`, to run and not to train.

    Returns:
      The parameters on the mesh, and the configuration that they now have.
    """
    fitted = fit_heads(params, config, mesh.shape.get("tensor", 1))
    return lay(fitted, param_shardings(mesh, fitted)), fitted_config(
        config, mesh.shape.get("tensor", 1)
    )


def divided(params: Params, config: ModelConfig) -> tuple[Params, ModelConfig]:
    """Under a mesh, inside a step that trains: heads that divide, every leaf in its place.

    The parameters themselves keep the heads that they have. Where there is no mesh, or none that
    splits heads, they are returned as they are.
    """
    parts = tensor_parts()
    if parts == 1:
        return params, config
    fitted = fit_heads(params, config, parts)
    laid = jax.tree.map(lambda leaf, axes: constrain(leaf, *axes), fitted, param_axes(fitted))
    return laid, fitted_config(config, parts)


def fitted_config(config: ModelConfig, parts: int) -> ModelConfig:
    """The configuration of a model after `fit_heads`."""
    copies, group = _fit(config, parts)
    kv_heads = config.num_kv_heads * copies
    return dataclasses.replace(config, num_heads=kv_heads * group, num_kv_heads=kv_heads)


def fit_heads(params: Params, config: ModelConfig, parts: int) -> Params:
    """The same function with numbers of heads that `parts` divides.

    Each key and value head is copied as often as needed, its queries are dealt out among the
    copies, and where they do not go round, heads of zeros fill up: what such a head mixes meets
    zeros in the output projection. Gradients flow back through it to the parameters as they were.

    Args:
      params: parameter tree, its layers in any layout.
      config: its configuration.
      parts: devices that share the heads.
    """
    copies, group = _fit(config, parts)
    if copies == 1:
        return params
    kv_heads, old = config.num_kv_heads, config.num_heads // config.num_kv_heads
    empty = copies * group - old

    def queries(leaf: jax.Array, axis: int) -> jax.Array:
        before, after = leaf.shape[:axis], leaf.shape[axis + 1 :]
        grouped = leaf.reshape(*before, kv_heads, old, *after)
        widths = [(0, 0)] * grouped.ndim
        widths[axis + 1] = (0, empty)
        filled = jnp.pad(grouped, widths)
        return filled.reshape(*before, kv_heads * copies * group, *after)

    def fit(path: Any, leaf: jax.Array) -> jax.Array:
        name = _names(path)[-1]
        if name not in ("wq", "bq", "wo", "wk", "wv", "bk", "bv"):
            return leaf
        axis = 1 + _LAYER_AXES[name].index("heads")
        if name == "wo" and getattr(path[-1], "name", None) == "scale":
            return leaf  # of an output that all heads share
        if name in ("wq", "bq", "wo"):
            return queries(leaf, axis)
        return jnp.repeat(leaf, copies, axis=axis)

    return {**params, "layers": jax.tree_util.tree_map_with_path(fit, params["layers"])}


def _names(path: Any) -> list[str]:
    """The keys on the way to a leaf, or to one of the two halves of a leaf in eight bits."""
    return [str(entry.key) for entry in path if hasattr(entry, "key")]


def _fit(config: ModelConfig, parts: int) -> tuple[int, int]:
    """Copies of each key and value head, and queries of each copy."""
    copies = math.lcm(config.num_kv_heads, parts) // config.num_kv_heads
    return copies, -(-(config.num_heads // config.num_kv_heads) // copies)
