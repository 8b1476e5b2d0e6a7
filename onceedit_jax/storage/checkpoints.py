"""Save and load pytrees of arrays with orbax; no other module uses orbax."""

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from onceedit_jax.distributed.hosts import barrier, is_first
from onceedit_jax.distributed.mesh import spans_hosts
from onceedit_jax.errors import InputError

# Orbax logs each save and restore at INFO, and warns when a tree is restored as it was saved.
logging.getLogger("absl").setLevel(logging.ERROR)


def _context(together: bool) -> ocp.Context:
    """Orbax's settings: all hosts save or load the tree together, or this host on its own."""
    if together:
        return ocp.Context()
    host = jax.process_index()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
        )
    )


def save_tree(folder: Path, tree: Any) -> None:
    """Save a nested dict of arrays. If the process is killed, an earlier tree is still there.

    If arrays span several hosts, all of them must call this, with a folder on a file system that
    they share; each writes the parts on its own devices.
    """
    together = spans_hosts(tree)
    fresh, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    first = is_first(together)
    if first:
        shutil.rmtree(fresh, ignore_errors=True)
    barrier(together, f"{folder} cleared")
    if together:  # orbax requires that arrays of a single host are numpy arrays
        tree = jax.tree.map(lambda leaf: leaf if spans_hosts(leaf) else _to_numpy(leaf), tree)
    with _context(together):
        ocp.save(fresh.absolute(), tree)
    if first:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    barrier(together, f"{folder} saved")


def _to_numpy(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf


def has_tree(folder: Path) -> bool:
    """Whether a tree was saved here. Restores the earlier tree if a save was killed."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames of `save_tree`
        old.rename(folder)
    return folder.exists()


def load_tree(folder: Path, lay: Callable[[Any], Any] | None = None) -> Any:
    """Load a tree onto the devices of this run.

    Args:
      folder: written by `save_tree`.
      lay: from the tree of shapes to the sharding of each array, None for numpy arrays. Each device
        then reads its own part (default: the devices that the tree was saved from).

    Raises:
      InputError: the folder holds no complete tree.
    """
    if not has_tree(folder) or not ocp.is_orbax_checkpoint(folder.absolute()):
        raise InputError(
            f"{folder}: expected a complete orbax checkpoint here, found none; give the folder "
            "that `onceedit edit --out` wrote, or run the edit again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if lay is None:
                with _context(together=False):
                    return ocp.load(folder.absolute())
            with _context(together=False):
                shapes = ocp.metadata(folder.absolute()).metadata
            layouts = lay(shapes)
            together = not all(layout.is_fully_addressable for layout in jax.tree.leaves(layouts))

            def target(leaf: Any, layout: Any) -> Any:
                if layout is None:
                    return leaf
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout)

            with _context(together):
                return ocp.load(folder.absolute(), jax.tree.map(target, shapes, layouts))
    except (ValueError, KeyError, FileNotFoundError, OSError) as error:
        raise InputError(
            f"{folder}: cannot read this orbax checkpoint ({str(error).splitlines()[0]}); it is "
            "damaged or belongs to another model: run the edit again"
        ) from error
