"""From a checkpoint's tensors to the parameter tree: in memory's dtype, and where it is to lie.

Tensors are read one at a time, straight into the memory dtype, and the finished leaves are handed
to JAX without a copy: resident memory grows by the model plus its largest tensor. Over a mesh, a
process reads what its own devices hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from numpy.typing import NDArray

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, param_shapes
from onceedit_jax.models.families import canonical_name, checkpoint_tensors
from onceedit_jax.models.quantization import Int8, quantize, scale_shape
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.models.tensors import Box, CheckpointTensor

# XLA on the CPU takes a host buffer over without copying it only at this alignment.
_ALIGNMENT = 64


class TensorSource(Protocol):
    """Named tensors in a file or a folder, read one at a time."""

    path: Path

    def names(self) -> Iterable[str]:
        """All tensors, under the names `transformers` gives them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; reads no data."""

    def read(self, name: str, out: NDArray[Any]) -> None:
        """Fills `out`, of the tensor's shape and any float dtype, with its values."""

    def read_box(self, name: str, box: Box, out: NDArray[Any]) -> None:
        """Fills `out` with the values in a box of the tensor."""


class _Filling:
    """An array of the tree as it fills up: as much of it as this process's devices hold."""

    def __init__(self, shape: jax.ShapeDtypeStruct, layout: NamedSharding | None) -> None:
        self.shape, self.layout = shape.shape, layout
        self.box = tuple(slice(0, size) for size in shape.shape)
        if layout is not None:
            held = layout.addressable_devices_indices_map(shape.shape).values()
            self.box = tuple(
                slice(min(part.start for part in parts), max(part.stop for part in parts))
                for parts in (
                    [slice(*index[axis].indices(size)[:2]) for index in held if index is not None]
                    for axis, size in enumerate(shape.shape)
                )
            )
        extent = [part.stop - part.start for part in self.box]
        self.host = _aligned_empty(extent, np.dtype(shape.dtype))

    @property
    def whole(self) -> bool:
        return self.host.shape == self.shape

    def inside(self, layer: int | None) -> Box:
        """The box as it lies within one layer."""
        return self.box if layer is None else self.box[1:]

    def put(self, layer: int | None, held: NDArray[Any]) -> None:
        """Take in the box's values of one layer, or all of them outside the layers."""
        self.host[... if layer is None else layer] = held

    def take(self, layer: int | None, values: NDArray[Any]) -> None:
        """Take out of a layer's values what lies in the box."""
        self.put(layer, values[self.inside(layer)])

    def finish(self) -> jax.Array:
        """The array on its devices; the host's goes with it, or is what it is made of."""
        host, self.host = self.host, np.empty(0)
        if self.layout is None:
            return jax.device_put(host, may_alias=True)

        def part(index: tuple[slice, ...] | None) -> NDArray[Any]:
            assert index is not None
            ranges = (
                (wanted.indices(size), box.start)
                for wanted, size, box in zip(index, self.shape, self.box, strict=True)
            )
            return host[tuple(slice(a - first, b - first) for (a, b, _), first in ranges)]

        return jax.make_array_from_callback(self.shape, self.layout, part)


def assemble(
    source: TensorSource,
    config: ModelConfig,
    dtype: np.dtype,
    *,
    eight_bits: bool = False,
    mesh: Mesh | None = None,
) -> Params:
    """The parameter tree of a checkpoint, in the dtype it is to have in memory.

    All names and shapes are checked before any data is read.

    Args:
        source: Where the tensors are.
        config: The model's.
        dtype: Of the parameters.
        eight_bits: The layers' matrices become `Int8`, each as soon as it is read.
        mesh: Where the parameters shall lie (default: on one device).

    Raises:
        InputError: Tensors are missing, unknown, misshapen or not floats, or a file breaks off.
    """
    expected = checkpoint_tensors(config)
    stored = _checked_names(source, config, expected)
    shapes = held_shapes(config, dtype, eight_bits=eight_bits)
    layouts = (
        jax.tree.map(lambda _: None, shapes) if mesh is None else param_shardings(mesh, shapes)
    )
    leaves, structure = jax.tree.flatten(shapes)
    places = jax.tree.leaves(layouts, is_leaf=lambda layout: layout is None)
    filling = [_Filling(leaf, place) for leaf, place in zip(leaves, places, strict=True)]
    tree = jax.tree.unflatten(structure, filling)
    # One buffer for all tensors but the tables, which go to their places directly.
    sizes = [math.prod(tensor.shape) for tensor in expected.values() if tensor.stored != "table"]
    buffer = np.empty(max(sizes), np.float32 if eight_bits else dtype)
    for canonical, tensor in expected.items():
        _read(source, stored[canonical], tensor, tree, buffer)
    return jax.tree.unflatten(structure, [leaf.finish() for leaf in filling])


def held_shapes(config: ModelConfig, dtype: np.dtype, *, eight_bits: bool = False) -> Params:
    """The leaves that `assemble` makes, without their data."""
    shapes: Params = param_shapes(config, dtype)
    if not eight_bits:
        return shapes
    tensors = checkpoint_tensors(config).values()
    inputs = {leaf.path: tensor.inputs for tensor in tensors for leaf in _matrices(tensor)}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _in_eight_bits(leaf, inputs.get(tuple(key.key for key in path))), shapes
    )


def _read(
    source: TensorSource, name: str, tensor: CheckpointTensor, tree: Any, buffer: NDArray[Any]
) -> None:
    """Read one tensor, or as much of it as is held, into the leaves that it belongs to."""
    places = [_at(tree, leaf.path) for leaf in tensor.leaves]
    only = places[0] if len(places) == 1 else None
    if isinstance(only, _Filling) and not only.whole:
        layer = tensor.leaves[0].layer
        box = only.inside(layer)
        region = tensor.region(box)
        out = np.empty([part.stop - part.start for part in region], only.host.dtype)
        source.read_box(name, region, out)
        only.put(layer, tensor.cut(out, box))
    elif isinstance(only, _Filling) and tensor.stored == "table":
        source.read(name, only.host)
    else:
        out = buffer[: math.prod(tensor.shape)].reshape(tensor.shape)
        source.read(name, out)
        for (leaf, values), place in zip(tensor.split(out), places, strict=True):
            if isinstance(place, Int8):
                small = quantize(values, tensor.inputs)
                place.values.take(leaf.layer, small.values)
                place.scale.take(leaf.layer, small.scale)
            else:
                place.take(leaf.layer, values)


def _matrices(tensor: CheckpointTensor) -> Iterator[Any]:
    """The leaves of a tensor that are matrices of a layer."""
    if tensor.stored in ("linear", "conv1d"):
        yield from (leaf for leaf in tensor.leaves if leaf.layer is not None)


def _in_eight_bits(leaf: jax.ShapeDtypeStruct, inputs: int | None) -> Any:
    if inputs is None:
        return leaf
    return Int8(
        jax.ShapeDtypeStruct(leaf.shape, np.int8),
        jax.ShapeDtypeStruct(scale_shape(leaf.shape, range(1, 1 + inputs)), np.float32),
    )


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _checked_names(
    source: TensorSource, config: ModelConfig, expected: dict[str, CheckpointTensor]
) -> dict[str, str]:
    """Under which name the source has each expected tensor, once all names and shapes agree."""
    stored: dict[str, str] = {}
    for name in source.names():
        canonical = canonical_name(config, name)
        if canonical is not None and stored.setdefault(canonical, name) != name:
            raise InputError(
                f"{source.path}: tensors {stored[canonical]} and {name} are two names of one "
                "parameter; expected one of them: remove the other"
            )
    if missing := [name for name in expected if name not in stored]:
        raise InputError(
            f"{source.path}: missing tensor {some(missing)}; expected {len(expected)} tensors of "
            f"a {config.family} model: the file is incomplete or config.json is another model's"
        )
    if unknown := [name for canonical, name in stored.items() if canonical not in expected]:
        raise InputError(
            f"{source.path}: unknown tensor {some(unknown)}; expected only those of a "
            f"{config.family} model: it is a variant that is not supported, or config.json is "
            "another model's"
        )
    for canonical, tensor in expected.items():
        found = source.shape(stored[canonical])
        if found != tensor.shape:
            raise InputError(
                f"{source.path}: tensor {stored[canonical]} has shape {list(found)}; expected "
                f"{list(tensor.shape)}: the weights and config.json do not belong together"
            )
    return stored


def _aligned_empty(shape: Sequence[int], dtype: np.dtype) -> NDArray[Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def some(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
