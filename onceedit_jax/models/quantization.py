"""Weights in eight bits with one scale for each output channel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float

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


def quantize(matrix: Float[np.ndarray, "*shape"], inputs: int) -> Int8:
    """Round a matrix to eight bits; each output channel is scaled by its own largest entry.

    Args:
        matrix: [inputs..., outputs...].
        inputs: Number of its leading axes that are inputs.

    Returns:
        Values and scales; no entry differs from the matrix's by more than half a scale.
    """
    wide = np.asarray(matrix, np.float32)
    largest = np.abs(wide).max(axis=tuple(range(inputs)), keepdims=True)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return Int8(np.rint(wide / scale).astype(np.int8), scale)


def scale_shape(shape: Sequence[int], inputs: Collection[int]) -> tuple[int, ...]:
    """Shape of an `Int8`'s scale: that of its values, with 1 for the axes in `inputs`."""
    return tuple(1 if axis in inputs else size for axis, size in enumerate(shape))


def dequantize(tree: Any, dtype: DTypeLike) -> Any:
    """A tree with an array of `dtype` in place of every `Int8` leaf; other leaves are unchanged."""
    return jax.tree.map(
        lambda leaf: _dequantize(leaf, dtype) if isinstance(leaf, Int8) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Int8),
    )


def _dequantize(leaf: Int8, dtype: DTypeLike) -> jax.Array:
    wide: jax.Array = leaf.values.astype(jnp.float32) * leaf.scale
    return wide.astype(dtype)
