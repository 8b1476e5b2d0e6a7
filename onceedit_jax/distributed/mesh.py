"""One mesh, one table of logical axes, and how arrays are laid over it.

A mesh has up to three axes: `data` splits rows, `fsdp` splits rows and parameters, `tensor` splits
what each layer computes. Arrays name their dimensions by what they hold; the table says which mesh
axes split such a dimension. Everything else follows from the arrays: `jit` puts in the collectives.
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from onceedit_jax.errors import InputError

MESH_AXES = ("data", "fsdp", "tensor")
Axes = tuple[str | None, ...]  # what each dimension of an array holds; None: nothing to split

# The mesh axes that split each logical axis. No array names one mesh axis twice.
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
    "entry": ("data", "fsdp", "tensor"),  # of a vocabulary, where a table is built row by row
}


def make_mesh(sizes: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over devices.

    Args:
      sizes: of the axes in `MESH_AXES`; those left out have one device.
      devices: in the order in which the axes count them, `tensor` fastest (default: this host's
        where the sizes give their number, or else those of all hosts).

    Raises:
      ValueError: an axis that is none, or sizes that do not give the number of devices.
    """
    if unknown := sorted(sizes.keys() - set(MESH_AXES)):
        raise ValueError(f"mesh axis {unknown[0]!r}: expected some of {', '.join(MESH_AXES)}")
    shape = tuple(sizes.get(axis, 1) for axis in MESH_AXES)
    choices = [jax.local_devices(), jax.devices()] if devices is None else [devices]
    counts = list(dict.fromkeys(map(len, choices)))
    if min(shape) < 1 or math.prod(shape) not in counts:
        named = ", ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, shape, strict=True))
        there = f"{counts[0]}" + "".join(f", and {count} on all hosts" for count in counts[1:])
        raise ValueError(f"mesh {named}: {math.prod(shape)} devices, there are {there}")
    grid = np.array(choices[counts.index(math.prod(shape))]).reshape(shape)
    return Mesh(grid, MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES))


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh that splits rows alone, over the given devices (default: all of this host's)."""
    count = len(jax.local_devices() if devices is None else devices)
    return make_mesh({"data": count}, devices)


def laid_over(tree: Any) -> Mesh | None:
    """The mesh that a pytree's arrays lie over, if they lie over one."""
    for leaf in jax.tree.leaves(tree):
        found = getattr(leaf, "sharding", None)
        if isinstance(found, NamedSharding) and isinstance(found.mesh, Mesh):
            return found.mesh
    return None


def mesh_of(tree: Any) -> Mesh:
    """The mesh that a pytree's arrays lie over; where they lie over none, all devices by rows."""
    return laid_over(tree) or data_mesh()


def using(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """A context in which `constrain` lays values over the mesh."""
    return jax.set_mesh(mesh) if mesh is not None and mesh.size > 1 else nullcontext()


def spec(
    mesh: Mesh | AbstractMesh, axes: Axes, shape: Sequence[int] | None = None
) -> PartitionSpec:
    """Which mesh axes split each dimension.

    Args:
      mesh: from `make_mesh`.
      axes: the array's logical axes, see `LOGICAL_AXES`.
      shape: the array's; a dimension that its mesh axes do not divide is left whole.
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
    """The layout of an array over a mesh, see `spec`."""
    return NamedSharding(mesh, spec(mesh, axes, shape))


def spans_hosts(tree: Any) -> bool:
    """Whether some array of a pytree lies on devices of other hosts too."""
    return any(
        isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        for leaf in jax.tree.leaves(tree)
    )


def lay(tree: Any, where: Any) -> Any:
    """Put every array of a pytree where it shall lie, be it on devices of several hosts.

    Args:
      tree: arrays over any devices, or a host's own: every host then has the same ones.
      where: a sharding, or a pytree of them, one for each array.
    """

    def put(leaf: Any, place: NamedSharding) -> jax.Array:
        if place.is_fully_addressable or spans_hosts(leaf):
            return jax.device_put(leaf, place)
        # `device_put` would have the hosts compare what they hold.
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, whole.__getitem__)

    if isinstance(where, NamedSharding):
        return jax.tree.map(lambda leaf: put(leaf, where), tree)
    return jax.tree.map(put, tree, where)


def to_host(array: Any) -> np.ndarray[Any, Any]:
    """The whole of an array in this host's memory; all hosts that it lies on ask together."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def shard_batch(mesh: Mesh, tree: Any) -> Any:
    """Split every array of a pytree along its first axis, the batch.

    Args:
      mesh: from `make_mesh`.
      tree: arrays `[B, ...]`; B is a multiple of `batch_multiple`.
    """
    return lay(tree, sharding(mesh, ("batch",)))


def batch_multiple(mesh: Mesh) -> int:
    """What the rows of a batch have to be a multiple of."""
    return math.prod(mesh.shape.get(name, 1) for name in LOGICAL_AXES["batch"])


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Give every device the whole of every array."""
    return lay(tree, sharding(mesh, ()))


def tensor_parts() -> int:
    """The size of `tensor` under `using`; 1 elsewhere."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("tensor", 1)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Lay a value out by its axes, inside `jit` or not, under `using`; elsewhere it stays as it is.

    The compiler lays out what lies between inputs by itself. Where rows and parameters are split
    over the same devices it has a choice, and this says which: rows stay where they are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(mesh, axes, x.shape))


def parse_mesh(text: str | None) -> Mesh | None:
    """A mesh as it is typed, `data=4,tensor=2`; None where nothing is.

    Raises:
      InputError: no list of axes and sizes, or one that does not fit the devices.
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
            f"--mesh {text}: {error}; expected axes and their sizes, as in data=4,tensor=2, that "
            "together give the number of devices"
        ) from error
