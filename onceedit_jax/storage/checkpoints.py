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
from onceedit_jax.storage.bounded import foreign
from onceedit_jax.storage.checksums import SUMS, check_sums, write_sums

# Orbax logs each save and restore at INFO, and warns when a tree is restored as it was saved.
logging.getLogger("absl").setLevel(logging.ERROR)
_REMEDY = "it is damaged or belongs to another model: run the edit again"


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
        write_sums(fresh)
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


def load_tree(
    folder: Path,
    lay: Callable[[Any], Any] | None = None,
    *,
    verify: bool = True,
    digest: str | None = None,
) -> Any:
    """Load a tree onto the devices of this run.

    Args:
      folder: written by `save_tree`.
      lay: from the tree of shapes to the sharding of each array, None for numpy arrays. Each device
        then reads its own part (default: the devices that the tree was saved from).
      verify: check the hashes of all files before; trees of older versions have none.
      digest: `digest_of_sums` of the tree, where it is known.

    Raises:
      InputError: the folder holds no complete tree, or a file of it has changed.
    """
    if not has_tree(folder) or not ocp.is_orbax_checkpoint(folder.absolute()):
        raise InputError(
            f"{folder}: expected a complete orbax checkpoint here, found none; give the folder "
            "that `onceedit edit --out` wrote, or run the edit again"
        )
    if verify and (digest or (folder / SUMS).exists()):
        check_sums(folder, digest, remedy=_REMEDY)
    with foreign(folder, _REMEDY), warnings.catch_warnings():
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
