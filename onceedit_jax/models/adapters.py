"""Adapters: low-rank factors that each row of a batch adds to the matrices of the last layers.

The weights stay as they are: a matrix W gives `x W + (x A) B` (LoRA, Hu et al. 2021, arXiv
2106.09685), and every row of a batch has factors A and B of its own. So one pass serves rows that
need different adapters, and an adapter comes or goes without a new compilation of the model.

The factors are a part of the parameter tree, `params["adapters"]`: by module and matrix, `a` with
axes [rows, layers, inputs..., rank] and `b` with [rows, layers, rank, outputs...]. `rows` is the
number of rows of the batch, or 1 for an adapter that all of them share; `layers` counts the last
layers of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.models.layout import (
    INPUT_AXES,
    group_size,
    layer_groups,
    split_layers,
    stack_layers,
)
from onceedit_jax.models.products import einsum
from onceedit_jax.types import AnyArray, Params

Factors = Mapping[str, Mapping[str, jax.Array]]
NO_FACTORS: Factors = MappingProxyType({})
NO_ADAPTER = -1


def init_adapter(params: Params, layers: int, rank: int, key: Key[Array, ""]) -> Params:
    """An adapter of the last layers that changes nothing yet: A is random and B is zero.

    Args:
        params: Parameters of the model, float32, its layers in any layout.
        layers: How many of the last layers it has factors for.
        rank: Rank of the factors; a smaller matrix gets a smaller rank.
        key: From `jax.random.key`.

    Returns:
        The tree of `params["adapters"]`, with one row.
    """
    group = layer_groups(params["layers"])[-1]
    shapes: dict[tuple[str, str], tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(group):
        inputs = INPUT_AXES.get(path[-1].key)
        if inputs is not None and len(path) == 2 and leaf.ndim > 1 + inputs:  # a matrix
            read, written = leaf.shape[1 : 1 + inputs], leaf.shape[1 + inputs :]
            shapes[path[0].key, path[-1].key] = read, written
    adapter: Params = {}
    # One compiled function: one for each shape would take longer than a training step.
    for (module, name), factor in _initial(tuple(shapes.items()), layers, rank, key).items():
        adapter.setdefault(module, {})[name] = factor
    return adapter


@partial(jax.jit, static_argnums=(0, 1, 2))
def _initial(shapes: Any, layers: int, rank: int, key: Key[Array, ""]) -> dict[Any, Any]:
    factors = {}
    for i, (place, (read, written)) in enumerate(shapes):
        size = min(rank, math.prod(read), math.prod(written))
        noise = jax.random.normal(jax.random.fold_in(key, i), (1, layers, *read, size))
        factors[place] = {
            "a": noise / math.prod(read) ** 0.5,
            "b": jnp.zeros((1, layers, size, *written)),
        }
    return factors


def number_of_adapters(adapters: Params) -> int:
    """How many adapters a tree of factors holds."""
    return int(jax.tree.leaves(adapters)[0].shape[0])


def adapted_layers(adapters: Params) -> int:
    """How many of the last layers the adapters have factors for."""
    return int(jax.tree.leaves(adapters)[0].shape[1])


def adapted(params: Params, adapters: Params | None, chosen: Int[np.ndarray, " rows"]) -> Params:
    """Parameters that give each row of a batch its own adapter.

    Args:
        params: Of the model, with a boundary between two groups where the adapters begin.
        adapters: Factors of N adapters, N in place of `rows`; None for a model without any.
        chosen: The adapter of each row, `NO_ADAPTER` for none.

    Returns:
        The parameters with `adapters`; of one row, where all rows have the same one. Where no row
        has an adapter, the parameters as they are.
    """
    if adapters is None or np.all(chosen == NO_ADAPTER):
        return params
    if np.all(chosen == chosen[0]):
        chosen = chosen[:1]
    return {**params, "adapters": _gather(adapters, jnp.asarray(chosen))}


@jax.jit
def _gather(adapters: Params, chosen: jax.Array) -> Params:
    def pick(leaf: jax.Array) -> jax.Array:
        there = (chosen >= 0).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(there, jnp.take(leaf, jnp.maximum(chosen, 0), axis=0), 0)

    picked: Params = jax.tree.map(pick, adapters)
    return picked


def joined(parts: Sequence[Params]) -> Params:
    """The adapters of several trees as one, in their order; all are of the same matrices.

    Smaller ranks and fewer layers are filled up with zeros, which add nothing. The result is whole,
    wherever its parts were trained: it is small, and one host writes it.
    """
    leaves, structures = zip(*(jax.tree.flatten(part) for part in parts), strict=True)
    assert len(set(structures)) == 1, "adapters of different matrices"
    whole = [_stacked(each) for each in zip(*leaves, strict=True)]
    adapters: Params = jax.tree.unflatten(structures[0], whole)
    return adapters


def _stacked(leaves: Sequence[AnyArray]) -> jax.Array:
    """Leaves of equal ranks, filled up to one shape: layers in front, other axes at the end."""
    shape = np.max([leaf.shape[1:] for leaf in leaves], axis=0).tolist()
    widths = [
        [(0, 0), (shape[0] - leaf.shape[1], 0)]
        + [(0, size - own) for size, own in zip(shape[1:], leaf.shape[2:], strict=True)]
        for leaf in leaves
    ]
    # On the host: on devices each number of adapters would be a program of its own.
    padded = [np.pad(to_host(leaf), w) for leaf, w in zip(leaves, widths, strict=True)]
    return jnp.asarray(np.concatenate(padded))


def merged(params: Params, adapters: Params, number: int) -> Params:
    """Parameters in canonical form with one adapter added to the weights: `W + A B`."""
    stacked = stack_layers(params)
    layers = {name: dict(part) for name, part in stacked["layers"].items()}
    for module, factors in adapters.items():
        for name, factor in factors.items():
            weight, inputs = layers[module][name], INPUT_AXES[name]
            a, b = factor["a"][number], factor["b"][number]
            count, rank = b.shape[:2]
            update = a.reshape(count, -1, rank) @ b.reshape(count, rank, -1)
            assert weight.ndim == 1 + inputs + b.ndim - 2
            upper = weight[-count:] + update.reshape(weight[-count:].shape).astype(weight.dtype)
            layers[module][name] = weight.at[-count:].set(upper)
    return {**stacked, "layers": layers}


def split_for(params: Params, layers: int) -> Params:
    """Parameters with a boundary between two groups before the last layers, as adapters need it."""
    groups = layer_groups(params["layers"])
    sizes = [group_size(group) for group in groups]
    total = sum(sizes)
    if total - layers in np.cumsum([0, *sizes]):
        return params
    return split_layers(params, (total - layers, layers) if layers < total else (total,))


def factors_of_groups(params: Params) -> list[Params | None]:
    """For each group of layers its adapters' factors, `layers` as the first axis.

    Raises:
        ValueError: A group has layers with and layers without factors.
    """
    groups = layer_groups(params["layers"])
    if "adapters" not in params:
        return [None] * len(groups)
    by_layer = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), params["adapters"])
    total = sum(map(group_size, groups))
    begin = total - group_size(by_layer)
    found: list[Params | None] = []
    first = 0
    for group in groups:
        end = first + group_size(group)
        if first < begin < end:
            raise ValueError(
                f"layers {first} to {end - 1} are one group, and adapters begin at layer {begin}: "
                "split the layers there (`split_for`)"
            )
        part = slice(first - begin, end - begin)
        found.append(
            jax.tree.map(lambda leaf, s=part: leaf[s], by_layer) if first >= begin else None
        )
        first = end
    return found


def low_rank_product(
    x: Float[Array, "batch length *inputs"], factors: Mapping[str, jax.Array]
) -> Float[Array, "batch length outputs"]:
    """`(x A) B` for every row, accumulated in float32.

    Args:
        x: Input of a matrix.
        factors: `a` [rows, inputs..., rank] and `b` [rows, rank, outputs...]; one row, or B.
    """
    a, b = factors["a"], factors["b"]
    flat = x.reshape(*x.shape[:2], -1)
    reduced = _product(flat, a.reshape(a.shape[0], -1, a.shape[-1]))
    return _product(reduced.astype(x.dtype), b.reshape(*b.shape[:2], -1))


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    if y.shape[0] == 1:  # all rows have the same matrix
        return einsum("bti,io->bto", x, y[0])
    return einsum("bti,bio->bto", x, y)
