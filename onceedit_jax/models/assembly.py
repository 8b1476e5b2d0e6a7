"""Build the parameter tree from a checkpoint's tensors, in its dtype and on its devices.

Tensors are read one at a time, directly into the dtype of the tree, and the finished leaves are
given to JAX without a copy: resident memory grows by the model plus its largest tensor. With a
mesh, a process reads only what its own devices hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import canonical_name, checkpoint_tensors
from onceedit_jax.models.finite import check_finite
from onceedit_jax.models.parameters import param_shapes
from onceedit_jax.models.quantization import Int8, quantize, scale_shape
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.models.tensors import Box, CheckpointTensor
from onceedit_jax.storage.bounded import memory
from onceedit_jax.storage.safetensors_files import ALIGNMENT
from onceedit_jax.types import HostArray, Params


@runtime_checkable
class TensorSource(Protocol):
    """Named tensors in a file or a folder, read one at a time."""

    path: Path

    def names(self) -> Iterable[str]:
        """The names of all tensors, as `transformers` writes them."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; reads no data."""

    def read(self, name: str, out: HostArray) -> None:
        """Fill `out`, of the tensor's shape and any float dtype, with its values."""

    def read_box(self, name: str, box: Box, out: HostArray) -> None:
        """Fill `out` with the values in a box of the tensor."""


class _LeafBuffer:
    """Host memory for one leaf of the tree: the part of it that this process's devices hold."""

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
    def is_whole(self) -> bool:
        """Whether this process holds all of the leaf."""
        return bool(self.host.shape == self.shape)

    def box_in(self, layer: int | None) -> Box:
        """The box without the layer axis; the box itself outside the layers."""
        return self.box if layer is None else self.box[1:]

    def write_box(self, layer: int | None, values: HostArray) -> None:
        """Store the values that lie in the box: of one layer, or of a leaf outside the layers."""
        self.host[... if layer is None else layer] = values

    def write(self, layer: int | None, values: HostArray) -> None:
        """Store the part of `values`, a whole layer or leaf, that lies in the box."""
        self.write_box(layer, values[self.box_in(layer)])

    def to_devices(self) -> jax.Array:
        """The leaf on its devices; frees the host memory, or hands it over to JAX."""
        host, self.host = self.host, np.empty(0)
        if self.layout is None:
            array: jax.Array = jax.device_put(host, may_alias=True)
            return array

        def part(index: tuple[slice, ...] | None) -> HostArray:
            assert index is not None
            ranges = (
                (axis.indices(size), box.start)
                for axis, size, box in zip(index, self.shape, self.box, strict=True)
            )
            return host[tuple(slice(a - first, b - first) for (a, b, _), first in ranges)]

        return jax.make_array_from_callback(self.shape, self.layout, part)


def assemble(
    source: TensorSource,
    config: ModelConfig,
    dtype: np.dtype[Any],
    *,
    eight_bits: bool = False,
    mesh: Mesh | None = None,
) -> Params:
    """The parameter tree of a checkpoint.

    All names and shapes are checked before any data is read.

    Args:
        source: The checkpoint.
        config: The model's.
        dtype: Of the parameters in memory.
        eight_bits: Quantize the matrices to `Int8`, each as soon as it is read; the embeddings are
            then float16.
        mesh: Devices for the parameters (default: one device).

    Raises:
        InputError: Tensors are missing, unknown, of the wrong shape, not floats or not finite; a
            file is truncated; or the machine cannot hold the model.
    """
    expected = checkpoint_tensors(config)
    stored = _checked_names(source, config, expected)
    shapes = stored_shapes(config, dtype, eight_bits=eight_bits)
    layouts = (
        jax.tree.map(lambda _: None, shapes) if mesh is None else param_shardings(mesh, shapes)
    )
    if mesh is None:
        _check_memory(source.path, shapes)
    leaves, structure = jax.tree.flatten(shapes)
    shardings = jax.tree.leaves(layouts, is_leaf=lambda layout: layout is None)
    buffers = [_LeafBuffer(leaf, layout) for leaf, layout in zip(leaves, shardings, strict=True)]
    tree = jax.tree.unflatten(structure, buffers)
    # One scratch array for the tensors of all layers.
    sizes = [math.prod(t.shape) for t in expected.values() if t.leaves[0].layer is not None]
    scratch = np.empty(max(sizes), np.float32 if eight_bits else dtype)
    for canonical, tensor in expected.items():
        _read(source, stored[canonical], tensor, tree, scratch)
    params: Params = jax.tree.unflatten(structure, [buffer.to_devices() for buffer in buffers])
    return params


def stored_shapes(config: ModelConfig, dtype: np.dtype[Any], *, eight_bits: bool = False) -> Params:
    """The tree that `assemble` builds, with a `jax.ShapeDtypeStruct` in place of every array."""
    shapes = param_shapes(config, dtype)
    if not eight_bits:
        return shapes
    # For a tied head eight bits are too few; a CPU multiplies float16 faster than bfloat16.
    table = jax.ShapeDtypeStruct(shapes["embed"]["tokens"].shape, np.float16)
    shapes = {**shapes, "embed": {**shapes["embed"], "tokens": table}}
    tensors = checkpoint_tensors(config).values()
    inputs = {
        leaf.path: [axis + (leaf.layer is not None) for axis in _inputs(tensor)]
        for tensor in tensors
        for leaf in tensor.leaves
    }
    quantized: Params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _int8_shape(leaf, inputs[tuple(key.key for key in path)]), shapes
    )
    return quantized


def _read(
    source: TensorSource, name: str, tensor: CheckpointTensor, tree: Any, scratch: HostArray
) -> None:
    """Read one tensor, or the part that this process holds, into the buffers of its leaves."""
    buffers = [_at(tree, leaf.path) for leaf in tensor.leaves]
    only = buffers[0] if len(buffers) == 1 else None
    if isinstance(only, _LeafBuffer) and not only.is_whole:
        layer = tensor.leaves[0].layer
        box = only.box_in(layer)
        region = tensor.region(box)
        out = np.empty([part.stop - part.start for part in region], only.host.dtype)
        source.read_box(name, region, out)
        check_finite(out, source.path, name)
        only.write_box(layer, tensor.cut(out, box))
    elif isinstance(only, _LeafBuffer) and tensor.stored == "table":
        source.read(name, only.host)
        check_finite(only.host, source.path, name)
    else:
        size = math.prod(tensor.shape)
        out = scratch[:size] if size <= scratch.size else np.empty(size, scratch.dtype)
        out = out.reshape(tensor.shape)
        source.read(name, out)
        check_finite(out, source.path, name)
        for (leaf, values), buffer in zip(tensor.split(out), buffers, strict=True):
            if isinstance(buffer, Int8):
                quantized = quantize(values, _inputs(tensor))
                buffer.values.write(leaf.layer, quantized.values)
                buffer.scale.write(leaf.layer, quantized.scale)
            else:
                buffer.write(leaf.layer, values)


def _check_memory(path: Path, shapes: Params) -> None:
    """Refuse a model that this machine cannot hold, before anything is allocated."""
    needed = sum(
        math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(shapes)
    )
    if needed > memory():
        raise InputError(
            f"{path}: the weights take {needed:,} bytes; expected at most the {memory():,} of this "
            "machine: choose a smaller dtype (bfloat16, int8), or share the model over devices "
            "(mesh)"
        )


def _inputs(tensor: CheckpointTensor) -> tuple[int, ...]:
    """The axes of a tensor's leaves that are inputs of a product; none for what stays as it is."""
    if tensor.stored in ("linear", "conv1d"):
        return tuple(range(tensor.inputs))
    return ()


def _int8_shape(leaf: jax.ShapeDtypeStruct, inputs: Sequence[int]) -> Any:
    if not inputs:
        return leaf
    scale = scale_shape(leaf.shape, inputs)
    return Int8(jax.ShapeDtypeStruct(leaf.shape, np.int8), jax.ShapeDtypeStruct(scale, np.float32))


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _checked_names(
    source: TensorSource, config: ModelConfig, expected: dict[str, CheckpointTensor]
) -> dict[str, str]:
    """From canonical names to the source's own, after a check of all names and shapes."""
    stored: dict[str, str] = {}
    for name in source.names():
        canonical = canonical_name(config, name)
        if canonical is not None and stored.setdefault(canonical, name) != name:
            raise InputError(
                f"{source.path}: tensors {stored[canonical]} and {name} are two names for one "
                "parameter; expected one of them: remove the other"
            )
    if missing := [name for name in expected if name not in stored]:
        raise InputError(
            f"{source.path}: missing tensor {some(missing)}; expected {len(expected)} tensors of "
            f"a {config.family} model: the file is incomplete, or config.json belongs to another "
            "model; fetch the folder again"
        )
    if unknown := [name for canonical, name in stored.items() if canonical not in expected]:
        raise InputError(
            f"{source.path}: unknown tensor {some(unknown)}; expected only those of a "
            f"{config.family} model: this variant is not supported, or config.json belongs to "
            "another model; choose a supported model"
        )
    for canonical, tensor in expected.items():
        shape = source.shape(stored[canonical])
        if shape != tensor.shape:
            raise InputError(
                f"{source.path}: tensor {stored[canonical]} has shape {list(shape)}; expected "
                f"{list(tensor.shape)}: the weights and config.json do not belong together; use "
                "those of one model"
            )
    return stored


def _aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> HostArray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def some(names: list[str]) -> str:
    """The first three names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
