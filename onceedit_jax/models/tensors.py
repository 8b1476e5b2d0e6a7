"""Checkpoint tensors: which leaves of the parameter tree each holds, and in which memory layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.types import HostArray

Path = tuple[str, ...]
"""Keys from the root of the parameter tree to a leaf."""

Box = tuple[slice, ...]
"""A part of an array: first and last index along each axis."""

Stored = Literal["linear", "conv1d", "vector", "table"]
"""Memory layout of a tensor, see `Rule`."""


@dataclass(frozen=True)
class Rule:
    """One row of a family's table: a checkpoint tensor and the leaves it holds.

    Attributes:
        name: Tensor name without the family's prefix; `{layer}` stands for the layer number.
        leaves: Paths into the parameter tree. Several are concatenated along their outputs. A rule
            does not apply where the config has no such leaves (no bias, a tied head).
        stored: `linear` is a matrix [out, in], `conv1d` a matrix [in, out], `vector` a bias or a
            norm (flattened), `table` has the shape of its leaf.
        inputs: Leading axes of a matrix leaf that are inputs (2 for the attention output [H, K]).
    """

    name: str
    leaves: tuple[Path, ...]
    stored: Stored
    inputs: int = 1


@dataclass(frozen=True)
class Leaf:
    """One leaf of one layer of the parameter tree.

    Attributes:
        path: In the stacked tree, such as `("layers", "attention", "wq")`.
        layer: Number of the layer; None outside the layers.
        shape: Without the layer axis.
    """

    path: Path
    layer: int | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor that the checkpoint of a particular model must have.

    Attributes:
        name: Full name, as `transformers` writes it.
        shape: Shape in the file.
        leaves: The leaves it holds, in order.
        stored: Memory layout, see `Rule`.
        inputs: Leading axes of a matrix leaf that are inputs.
    """

    name: str
    shape: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    stored: Stored
    inputs: int

    def split(self, array: HostArray) -> list[tuple[Leaf, HostArray]]:
        """The values of the leaves, as views of the tensor where numpy allows it.

        Args:
            array: The tensor in the shape of the file, of any dtype.

        Raises:
            InputError: The array has another shape.
        """
        if tuple(array.shape) != self.shape:
            raise InputError(
                f"tensor {self.name} has shape {list(array.shape)}; expected {list(self.shape)}: "
                "the weights and config.json do not belong together; use those of one model"
            )
        if self.stored == "linear":
            array = array.T
        sizes = [extents(leaf.shape, self.inputs, self.stored)[-1] for leaf in self.leaves]
        parts = [array]
        if len(self.leaves) > 1:
            parts = np.split(array, np.cumsum(sizes)[:-1].tolist(), axis=-1)
        return [
            (leaf, part.reshape(leaf.shape)) for leaf, part in zip(self.leaves, parts, strict=True)
        ]

    def region(self, box: Box) -> Box:
        """The part of the file's tensor that contains a box of its only leaf; see `cut`."""
        shape = self.leaves[0].shape
        if self.stored == "table":
            return box
        if self.stored == "vector":
            return (_flat(shape, box),)
        inputs = _flat(shape[: self.inputs], box[: self.inputs])
        outputs = _flat(shape[self.inputs :], box[self.inputs :])
        return (outputs, inputs) if self.stored == "linear" else (inputs, outputs)

    def cut(self, array: HostArray, box: Box) -> HostArray:
        """A box of the only leaf, from the values in its `region`."""
        if self.stored == "linear":
            array = array.T
        shape, extent = self.leaves[0].shape, [part.stop - part.start for part in box]
        # Of each group of axes (inputs, outputs), the region covers a range of the first axis and
        # the whole of the others, which are cut here.
        read = list(extent)
        inside = [slice(None)] * len(shape)
        split = {"table": tuple(range(len(shape))), "vector": (0,)}
        for axis in range(len(shape)):
            if axis not in split.get(self.stored, (0, self.inputs)):
                read[axis], inside[axis] = shape[axis], box[axis]
        return array.reshape(read)[tuple(inside)]

    def join(self, values: Sequence[HostArray]) -> HostArray:
        """The checkpoint's tensor from the values of its leaves; the inverse of `split`."""
        parts = [
            np.asarray(value).reshape(extents(leaf.shape, self.inputs, self.stored))
            for leaf, value in zip(self.leaves, values, strict=True)
        ]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return np.ascontiguousarray(array.T if self.stored == "linear" else array)


def extents(shape: tuple[int, ...], inputs: int, stored: Stored) -> tuple[int, ...]:
    """A leaf's shape with its axes merged as in a checkpoint: matrices [in, out], vectors [n]."""
    if stored == "vector":
        return (math.prod(shape),)
    if stored == "table":
        return shape
    return math.prod(shape[:inputs]), math.prod(shape[inputs:])


def _flat(shape: tuple[int, ...], box: Box) -> slice:
    """The range, in a flattened group of axes, of a box that splits only the first of them."""
    rest = math.prod(shape[1:])
    return slice(box[0].start * rest, box[0].stop * rest)
