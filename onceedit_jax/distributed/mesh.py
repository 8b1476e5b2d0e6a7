"""Device meshes, the table of logical axes, and the layout of arrays over a mesh.

A mesh has three axes: `data` splits rows, `fsdp` splits rows and parameters, `tensor` splits the
computation of each layer. The dimensions of arrays have logical names; one table says which mesh
axes split each of them. Everything else follows from the arrays: `jit` inserts the collectives.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from onceedit_jax.errors import InputError
from onceedit_jax.types import AnyArray, HostArray

MESH_AXES = ("data", "fsdp", "tensor")

AnArray = TypeVar("AnArray", bound=AnyArray)

Axes = tuple[str | None, ...]
"""The logical axis of each dimension of an array; None for one that is never split."""

# The mesh axes that split each logical axis. No array has two dimensions split by one mesh axis.
LOGICAL_AXES: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "length": (),
    "layers": (),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
    "vocab": ("tensor",),
    "anchor": (),
    "entry": ("data", "fsdp", "tensor"),  # rows of a vocabulary's table while it is built
}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over devices.

    Args:
      sizes: size of each axis in `MESH_AXES` (default: 1).
      devices: in the order of the axes, `tensor` fastest (default: the devices of this host if the
        sizes give their number, or else those of all hosts).

    Raises:
      ValueError: an unknown axis, or sizes that do not give the number of devices.
    """
    if unknown := sorted(sizes.keys() - set(MESH_AXES)):
        raise ValueError(f"mesh axis {unknown[0]!r}: expected some of {', '.join(MESH_AXES)}")
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    choices = [jax.local_devices(), jax.devices()] if devices is None else [devices]
    counts = list(dict.fromkeys(map(len, choices)))
    if min(shape) < 1 or math.prod(shape) not in counts:
        named = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, shape, strict=True))
        existing = f"{counts[0]}" + "".join(f", and {count} on all hosts" for count in counts[1:])
        raise ValueError(f"mesh {named}: {math.prod(shape)} devices, there are {existing}")
    grid = np.array(choices[counts.index(math.prod(shape))]).reshape(shape)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh that splits only rows, over the given devices (default: all of this host)."""
    count = len(jax.local_devices() if devices is None else devices)
    return make_mesh({"data": count}, devices)


def laid_over(tree: Any) -> Mesh | None:
    """The mesh of a pytree's arrays, None without one."""
    for leaf in jax.tree.leaves(tree):
        layout = getattr(leaf, "sharding", None)
        if isinstance(layout, NamedSharding) and isinstance(layout.mesh, Mesh):
            return layout.mesh
    return None


def platform_of(tree: Any) -> str:
    """Of the devices that a pytree's arrays are on: `cpu`, `gpu` or `tpu`."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            return str(next(iter(leaf.devices())).platform)
    return jax.default_backend()


def mesh_of(tree: Any) -> Mesh:
    """The mesh of a pytree's arrays; without one, `data_mesh()`."""
    return laid_over(tree) or data_mesh()


def using(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """A context in which `constrain` lays values out over the mesh."""
    return jax.set_mesh(mesh) if mesh is not None and mesh.size > 1 else nullcontext()


def spec(
    mesh: Mesh | AbstractMesh, axes: Axes, shape: Sequence[int] | None = None
) -> PartitionSpec:
    """Which mesh axes split each dimension of an array.

    Args:
      mesh: from `make_mesh`.
      axes: logical axes of the array, see `LOGICAL_AXES`.
      shape: of the array; a dimension whose size its mesh axes do not divide is not split.
    """
    parts: list[tuple[str, ...] | None] = []
    for i, axis in enumerate(axes):
        names = () if axis is None else LOGICAL_AXES[axis]
        names = tuple(name for name in names if mesh.shape.get(name, 1) > 1)
        count = math.prod(mesh.shape[name] for name in names)
        whole = shape is not None and shape[i] % count
        parts.append(None if whole or not names else names)
    return PartitionSpec(*parts)


def sharding(mesh: Mesh, axes: Axes, shape: Sequence[int] | None = None) -> NamedSharding:
    """The sharding of an array over a mesh, see `spec`."""
    return NamedSharding(mesh, spec(mesh, axes, shape))


def spans_hosts(tree: Any) -> bool:
    """Whether any array of a pytree is also on devices of other hosts."""
    return any(
        isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        for leaf in jax.tree.leaves(tree)
    )


def lay(tree: Any, where: Any) -> Any:
    """`jax.device_put` of every array of a pytree, also onto devices of several hosts.

    Args:
      tree: arrays on any devices, or arrays of this host, which must then be equal on every host.
      where: a sharding for all, or a pytree with a sharding for each array.
    """

    def put(leaf: Any, layout: NamedSharding) -> jax.Array:
        if layout.is_fully_addressable or spans_hosts(leaf):
            array: jax.Array = jax.device_put(leaf, layout)
            return array
        # `device_put` would make the hosts compare their arrays.
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, layout, whole.__getitem__)

    if isinstance(where, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, where), tree)
    return jax.tree.map(put, tree, where)


def to_host(array: Any) -> HostArray:
    """The whole array in this host's memory; all hosts that the array spans must call this."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def shard_batch(mesh: Mesh, tree: Any) -> Any:
    """Split every array of a pytree along its first axis, the batch.

    Args:
      mesh: from `make_mesh`.
      tree: arrays `[B, ...]`, B a multiple of `batch_multiple`.
    """
    return lay(tree, sharding(mesh, ("batch",)))


def batch_multiple(mesh: Mesh) -> int:
    """The number of rows in a batch must be a multiple of this."""
    return math.prod(mesh.shape.get(name, 1) for name in LOGICAL_AXES["batch"])


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Put the whole of every array on every device."""
    return lay(tree, sharding(mesh, ()))


def tensor_parts() -> int:
    """The size of the axis `tensor` in a context of `using`; 1 outside."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("tensor", 1)


def constrain(x: AnArray, *axes: str | None) -> AnArray:
    """Lay a value out by its logical axes in a context of `using`; outside, return it unchanged.

    The compiler chooses the layout of intermediate values. Where rows and parameters are split over
    the same devices it has several choices; this makes it keep the rows where they are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    laid: AnArray = jax.lax.with_sharding_constraint(x, spec(mesh, axes, x.shape))
    return laid


def parse_mesh(text: str | None) -> Mesh | None:
    """A mesh from its text form, such as `data=4,tensor=2`; None for None.

    Raises:
      InputError: not a list of axes and sizes, or one that does not give the number of devices.
    """
    if text is None:
        return None
    try:
        pairs = [part.split("=") for part in text.split(",")]
        sizes = {axis.strip(): int(size) for axis, size in pairs}
        if len(sizes) < len(pairs):
            raise ValueError("an axis is given twice")
        return make_mesh(sizes)
    except ValueError as error:
        raise InputError(
            f"--mesh {text}: {error}; expected axes and their sizes, as in data=4,tensor=2, whose "
            "product is the number of devices"
        ) from error
