"""Weights in eight bits with one scale for each output channel."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from onceedit_jax.models.narrow_products import InStack

_CHUNK = 1 << 20  # entries that are rounded together: bounds the memory
LARGEST = 127  # symmetric: -128 is not used, so that negation is exact


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8:
    """A matrix in eight bits, equal to `values * scale`; takes the place of a leaf in a tree.

    Attributes:
        values: [..., inputs..., outputs...] int8.
        scale: float32 of the same axes; the axes of the inputs have size 1.
    """

    values: Any
    scale: Any


def quantize(matrix: Float[np.ndarray, "*shape"], inputs: Collection[int]) -> Int8:
    """Round a matrix to eight bits; each output channel is scaled by its own largest entry.

    Args:
        matrix: Any axes.
        inputs: Those of its axes that are inputs.

    Returns:
        Values and scales; no entry differs from the matrix's by more than half a scale.
    """
    axes, wide = tuple(inputs), np.asarray(matrix, np.float32)
    largest = np.maximum(wide.max(axes, keepdims=True), -wide.min(axes, keepdims=True))
    # A quotient of the smallest numbers there are would be zero.
    least = np.maximum(largest / LARGEST, np.finfo(np.float32).tiny)
    scale = np.where(largest > 0, least, 1).astype(np.float32)
    values = np.empty(wide.shape, np.int8)
    step = max(1, _CHUNK * len(wide) // wide.size)
    for first in range(0, len(wide), step):
        rows = slice(first, first + step)
        values[rows] = np.rint(wide[rows] / (scale if 0 in axes else scale[rows]))
    return Int8(values, scale)


def scale_shape(shape: Sequence[int], inputs: Collection[int]) -> tuple[int, ...]:
    """Shape of an `Int8`'s scale: that of its values, with 1 for the axes in `inputs`."""
    return tuple(1 if axis in inputs else size for axis, size in enumerate(shape))


def without_values(group: Any) -> Any:
    """A tree whose `Int8` leaves have only their scales, for a scan over a group of layers."""
    return _map(lambda leaf: Int8(None, leaf.scale), group)


def with_values(layer: Any, group: Any, number: Any) -> Any:
    """A layer's slice of `without_values(group)`, with the values where they lie in the group.

    A scan would copy them out of it.

    Args:
        layer: The slice.
        group: Stacked layers.
        number: The layer's place in the group.
    """
    return _map(lambda leaf, of: Int8(InStack(of.values, number), leaf.scale), layer, group)


def _map(change: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """A tree with something else in place of its `Int8` leaves."""

    def is_int8(leaf: Any) -> bool:
        return isinstance(leaf, Int8)

    return jax.tree.map(
        lambda leaf, *more: change(leaf, *more) if is_int8(leaf) else leaf,
        tree,
        *others,
        is_leaf=is_int8,
    )
