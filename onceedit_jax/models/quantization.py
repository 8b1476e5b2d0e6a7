"""Weights in eight bits, one scale for each output channel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from numpy.typing import NDArray

LARGEST = 127  # symmetric: -128 stays unused, so that negation is exact


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8:
    """A matrix in eight bits: `values * scale`, as good as a leaf of a parameter tree.

    Attributes:
        values: [..., inputs..., outputs...] int8.
        scale: float32, of the same axes; those of the inputs have size 1.
    """

    values: Any
    scale: Any


def quantize(matrix: NDArray[Any], inputs: int) -> Int8:
    """Round a matrix to eight bits, each output channel against its own largest entry.

    Args:
        matrix: [inputs..., outputs...] of a float dtype.
        inputs: Number of its leading axes that are inputs.

    Returns:
        Values and scales, no entry further than half a scale from the matrix's.
    """
    wide = np.asarray(matrix, np.float32)
    largest = np.abs(wide).max(axis=tuple(range(inputs)), keepdims=True)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return Int8(np.rint(wide / scale).astype(np.int8), scale)


def scale_shape(shape: Sequence[int], inputs: Collection[int]) -> tuple[int, ...]:
    """The shape of an `Int8`'s scale: its values' with 1 in place of the inputs' axes."""
    return tuple(1 if axis in inputs else size for axis, size in enumerate(shape))


def widened(tree: Any, dtype: DTypeLike) -> Any:
    """A tree whose `Int8` leaves are arrays again; every other leaf is left as it is."""
    return jax.tree.map(
        lambda leaf: _widen(leaf, dtype) if isinstance(leaf, Int8) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Int8),
    )


def _widen(leaf: Int8, dtype: DTypeLike) -> jax.Array:
    return (leaf.values.astype(jnp.float32) * leaf.scale).astype(dtype)
