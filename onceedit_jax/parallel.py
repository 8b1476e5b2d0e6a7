"""Data parallelism: one mesh, one table of logical axes, and how arrays are laid over it."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

# Which mesh axis each logical axis of an array is split over; None means every device holds all.
LOGICAL_AXES: dict[str, str | None] = {
    "batch": "data",
    "length": None,
    "embed": None,
    "heads": None,
    "mlp": None,
    "vocab": None,
    "anchor": None,
}


def data_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis, `data`, over the given devices (default: all of them)."""
    chosen = jax.devices() if devices is None else devices
    return Mesh(np.array(chosen), ("data",), axis_types=(AxisType.Auto,))


def sharding(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """The layout of an array whose dimensions carry these logical axes."""
    return NamedSharding(
        mesh, PartitionSpec(*(None if axis is None else LOGICAL_AXES[axis] for axis in axes))
    )


def shard_batch(mesh: Mesh, tree: Any) -> Any:
    """Split every array of a pytree along its first axis, the batch.

    Args:
      mesh: from `data_mesh`.
      tree: arrays `[B, ...]`; B is a multiple of the number of devices.
    """
    return jax.device_put(tree, sharding(mesh, "batch"))


def replicate(mesh: Mesh, tree: Any) -> Any:
    """Give every device the whole of every array (parameters, transfer tables)."""
    return jax.device_put(tree, sharding(mesh))
