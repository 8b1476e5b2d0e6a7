"""How a checkpoint's tensors lie in memory, and which leaves of the parameter tree they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onceedit_jax.errors import InputError

Array = np.ndarray[Any, Any]
Path = tuple[str, ...]
Box = tuple[slice, ...]  # a part of an array: from where to where along each axis
Stored = Literal["linear", "conv1d", "vector", "table"]


@dataclass(frozen=True)
class Rule:
    """One row of a family's table: a checkpoint tensor and the leaves it holds.

    Attributes:
        name: Tensor name without the family's prefix; `{layer}` stands for the layer number.
        leaves: Paths into the parameter tree. Several are concatenated along their outputs. A rule
            whose leaves the config has no use for (an absent bias, a tied head) does not apply.
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
    """A place in the parameter tree: its path, its layer (None outside the layers), its shape.

    `path` is the stacked tree's (`("layers", "attention", "wq")`); `shape` lacks the layer axis.
    """

    path: Path
    layer: int | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckpointTensor:
    """A tensor that a checkpoint of one particular model must have.

    Attributes:
        name: Full name, as `transformers` writes it.
        shape: Shape in the file.
        leaves: What it holds, in order.
    """

    name: str
    shape: tuple[int, ...]
    leaves: tuple[Leaf, ...]
    stored: Stored
    inputs: int

    def split(self, array: Array) -> list[tuple[Leaf, Array]]:
        """The leaves' values in a tensor of `shape`, as views of it where numpy can; any dtype.

        Raises:
            InputError: The array has another shape.
        """
        if tuple(array.shape) != self.shape:
            raise InputError(
                f"tensor {self.name} has shape {list(array.shape)}; expected {list(self.shape)}: "
                "the weights and the model's config.json do not belong together"
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
        """Where in the file's tensor a box of its only leaf lies; `cut` takes it out of there."""
        shape = self.leaves[0].shape
        if self.stored == "table":
            return box
        if self.stored == "vector":
            return (_flat(shape, box),)
        inputs = _flat(shape[: self.inputs], box[: self.inputs])
        outputs = _flat(shape[self.inputs :], box[self.inputs :])
        return (outputs, inputs) if self.stored == "linear" else (inputs, outputs)

    def cut(self, array: Array, box: Box) -> Array:
        """A box of the only leaf, from what the file has in its `region`."""
        if self.stored == "linear":
            array = array.T
        shape, extent = self.leaves[0].shape, [part.stop - part.start for part in box]
        # An axis is split, those after it in its group are whole, or read whole and cut here.
        read = list(extent)
        inside = [slice(None)] * len(shape)
        split = {"table": tuple(range(len(shape))), "vector": (0,)}
        for axis in range(len(shape)):
            if axis not in split.get(self.stored, (0, self.inputs)):
                read[axis], inside[axis] = shape[axis], box[axis]
        return array.reshape(read)[tuple(inside)]

    def join(self, values: Sequence[Array]) -> Array:
        """The checkpoint's tensor from its leaves' values, `split`'s inverse."""
        parts = [
            np.asarray(value).reshape(extents(leaf.shape, self.inputs, self.stored))
            for leaf, value in zip(self.leaves, values, strict=True)
        ]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
        return np.ascontiguousarray(array.T if self.stored == "linear" else array)


def extents(shape: tuple[int, ...], inputs: int, stored: Stored) -> tuple[int, ...]:
    """A leaf's shape as a checkpoint counts it: matrices [in, out], vectors [n]."""
    if stored == "vector":
        return (math.prod(shape),)
    if stored == "table":
        return shape
    return math.prod(shape[:inputs]), math.prod(shape[inputs:])


def _flat(shape: tuple[int, ...], box: Box) -> slice:
    """The range of a group of axes, counted as one, that a box of its first axis fills."""
    rest = math.prod(shape[1:])
    return slice(box[0].start * rest, box[0].stop * rest)
