"""The layer parameters' axes and layouts: stacked to scan, split to freeze, unstacked to unroll."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.distributed.mesh import platform_of
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import AnyArray, Params

# What a scan copies, step after step, in the time that compiling unrolled layers takes longer:
# bytes by platform, as measured (docs/concepts/models.md).
_REPAID = {"cpu": 200e9, "gpu": 20e12}
#: How many axes, after the layer axis, of a layer's matrix are contracted with its input.
INPUT_AXES = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "gate": 1, "up": 1, "down": 1}


def layer_groups(layers: Any) -> tuple[Params, ...]:
    """The groups of stacked layers, lowest first: `layers` itself, or a tuple of the one dict."""
    return layers if isinstance(layers, tuple) else (layers,)


def group_size(group: Params) -> int:
    """Number of layers in a stacked group."""
    return int(jax.tree.leaves(group)[0].shape[0])


def stack_layers(params: Params) -> Params:
    """The canonical layout: one stacked dict with leading axis L."""
    groups = layer_groups(params["layers"])
    if len(groups) == 1:
        return {**params, "layers": groups[0]}
    return {**params, "layers": jax.tree.map(lambda *parts: jnp.concatenate(parts), *groups)}


def split_layers(params: Params, sizes: tuple[int, ...]) -> Params:
    """Layers as a tuple of stacked groups of `sizes` consecutive layers.

    On one CPU the groups share the memory of the whole, which is free when the last of them is.
    Splitting at n allows freezing the lower n layers; groups of one layer run without a scan.

    Raises:
        ValueError: The sizes do not add up to the number of layers, or one is not positive.
    """
    stacked = stack_layers(params)["layers"]
    total = group_size(stacked)
    if sum(sizes) != total or min(sizes, default=0) < 1:
        raise ValueError(
            f"group sizes {sizes} for {total} layers: expected positive sizes that add up to "
            f"{total}"
        )
    ends = np.cumsum(sizes).tolist()
    groups = tuple(
        jax.tree.map(lambda a, i=end - size, j=end: _rows(a, i, j), stacked)
        for size, end in zip(sizes, ends, strict=True)
    )
    return {**params, "layers": groups}


def lower_part(params: Params, config: ModelConfig, count: int) -> tuple[Params, ModelConfig]:
    """The first layers of a model, as a model of its own.

    On one CPU layers of one group share the memory of the whole: copy what shall outlive it.
    """
    parts, left = [], count
    for group in layer_groups(params["layers"]):
        taken = min(left, group_size(group))
        parts.append(jax.tree.map(lambda leaf, end=taken: _rows(leaf, 0, end), group))
        left -= taken
        if not left:
            break
    lower = stack_layers({"layers": tuple(parts)})
    kept = {name: part for name, part in params.items() if name != "head"}
    return {**kept, **lower}, dataclasses.replace(
        config,
        num_layers=count,
        sliding_layers=config.sliding_layers[:count],
        rope_layers=config.rope_layers[:count],
    )


def _rows(leaf: AnyArray, first: int, end: int) -> AnyArray:
    """Consecutive layers of a stacked leaf; on one CPU they share its memory.

    JAX does not write to memory that arrays share: where one of them is donated, it is copied.
    """
    if (first, end) == (0, leaf.shape[0]):
        return leaf
    if isinstance(leaf, jax.core.Tracer) or not _lies_on_the_only_cpu(leaf):
        return leaf[first:end]
    shared: jax.Array = jax.device_put(np.asarray(leaf)[first:end], may_alias=True)
    return shared


def _lies_on_the_only_cpu(leaf: AnyArray) -> bool:
    on_cpu = isinstance(leaf, jax.Array) and jax.default_backend() == "cpu"
    return on_cpu and jax.device_count() == 1


def upper_part(params: Params, config: ModelConfig, count: int) -> tuple[Params, ModelConfig]:
    """A model without its first layers: what reads the stream that these would give.

    Args:
        params: Its parameters, with a boundary between two groups after the first `count` layers.
        config: Its configuration.
        count: How many layers are left out.

    Raises:
        ValueError: The boundary is inside a group.
    """
    _, upper = _groups_at(params, count)
    return {**params, "layers": upper}, dataclasses.replace(
        config,
        num_layers=config.num_layers - count,
        sliding_layers=config.sliding_layers[count:],
        rope_layers=config.rope_layers[count:],
    )


def unstack_layers(params: Params) -> Params:
    """Layers as L groups of one, which run unrolled."""
    count = sum(group_size(group) for group in layer_groups(params["layers"]))
    return split_layers(params, (1,) * count)


def unstack_upper(params: Params, count: int) -> Params:
    """The layers above the first `count` as groups of one.

    Raises:
        ValueError: Layer `count` is inside a group.
    """
    lower, upper = _groups_at(params, count)
    return {**params, "layers": (*lower, *unstack_layers({"layers": upper})["layers"])}


def _groups_at(params: Params, count: int) -> tuple[tuple[Params, ...], tuple[Params, ...]]:
    """The groups of the first `count` layers, and those above; raises what `upper_part` raises."""
    groups = layer_groups(params["layers"])
    ends = [0, *np.cumsum([group_size(group) for group in groups]).tolist()]
    if count not in ends:
        raise ValueError(f"layer {count} is inside a group of layers: split them there")
    boundary = ends.index(count)
    return groups[:boundary], groups[boundary:]


def repays_unrolling(params: Params, steps: int) -> bool:
    """Whether unstacked layers save, in so many steps, the time that they take to compile.

    A scan over stacked layers copies all of them at every step. On a CPU that was measured with
    float32 weights; those in eight bits are multiplied where they lie (`narrow_products`), and of
    other ones the compiler keeps wide copies, which take too much memory. On a GPU both layouts
    must fit into memory while one is made of the other.

    Args:
      params: the model's parameters.
      steps: the steps that are expected, of one shape.
    """
    leaves, platform = jax.tree.leaves(params["layers"]), platform_of(params["layers"])
    size = sum(leaf.nbytes for leaf in leaves)
    if platform not in _REPAID or steps * size < _REPAID[platform]:
        return False
    if platform == "cpu":
        return bool(all(leaf.dtype == jnp.float32 for leaf in leaves))
    if jax.process_count() > 1:  # each counts its own memory, and all must decide alike
        return False
    held = sum(int(leaf.addressable_shards[0].data.nbytes) for leaf in leaves)
    return held <= free_memory(leaves[0].addressable_shards[0].device.memory_stats())


def free_memory(counted: dict[str, int] | None) -> float:
    """Bytes of a device that JAX may still use, by its `memory_stats`; infinite if it has none."""
    if counted is None or "bytes_limit" not in counted:
        return float("inf")
    return float(counted["bytes_limit"] - counted["bytes_in_use"])
