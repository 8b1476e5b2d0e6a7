"""Pytrees of arrays on disk through orbax; the only module that knows orbax's interface."""

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from onceedit_jax.distributed.hosts import is_first, meet
from onceedit_jax.distributed.mesh import spans_hosts
from onceedit_jax.errors import InputError

# Orbax reports each save and restore at INFO and warns when a tree is restored as it was saved.
logging.getLogger("absl").setLevel(logging.ERROR)


def _context(together: bool) -> ocp.Context:
    """Who saves and reads a tree: all hosts whose devices it lies on, or this one by itself."""
    if together:
        return ocp.Context()
    host = jax.process_index()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
        )
    )


def save_tree(folder: Path, tree: Any) -> None:
    """Write a nested dict of arrays; a kill in mid-save leaves any earlier tree in place.

    Where arrays lie over several hosts all of them save it, on a file system that they share, and
    each writes what its devices hold.
    """
    together = spans_hosts(tree)
    fresh, old = (folder.with_name(folder.name + end) for end in (".new", ".old"))
    first = is_first(together)
    if first:
        shutil.rmtree(fresh, ignore_errors=True)
    meet(together, f"{folder} cleared")
    if together:  # orbax wants of a host's own arrays that they are no device's
        tree = jax.tree.map(lambda leaf: leaf if spans_hosts(leaf) else _own(leaf), tree)
    with _context(together):
        ocp.save(fresh.absolute(), tree)
    if first:
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    meet(together, f"{folder} saved")


def _own(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf


def has_tree(folder: Path) -> bool:
    """Whether a tree was saved here; one that a kill left under its old name is put back."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():  # killed between the two renames of a save
        old.rename(folder)
    return folder.exists()


def load_tree(folder: Path, lay: Callable[[Any], Any] | None = None) -> Any:
    """Read a tree back, over whatever devices there are now.

    Args:
      folder: what `save_tree` wrote.
      lay: from the tree's shapes to the sharding of each array, None for what is no device's;
        devices then read what they hold (default: where it lay when it was saved).

    Raises:
      InputError: if the folder holds no complete tree.
    """
    if not has_tree(folder) or not ocp.is_orbax_checkpoint(folder.absolute()):
        raise InputError(
            f"{folder}: no complete orbax checkpoint here; "
            "give the folder that `onceedit edit --out` wrote, or edit again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            if lay is None:
                with _context(together=False):
                    return ocp.load(folder.absolute())
            with _context(together=False):
                found = ocp.metadata(folder.absolute()).metadata
            places = lay(found)
            together = not all(place.is_fully_addressable for place in jax.tree.leaves(places))

            def wanted(leaf: Any, place: Any) -> Any:
                if place is None:
                    return leaf
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

            with _context(together):
                return ocp.load(folder.absolute(), jax.tree.map(wanted, found, places))
    except (ValueError, KeyError, FileNotFoundError, OSError) as error:
        raise InputError(
            f"{folder}: this orbax checkpoint cannot be read ({str(error).splitlines()[0]}); "
            "it is damaged or of another model: edit again"
        ) from error
