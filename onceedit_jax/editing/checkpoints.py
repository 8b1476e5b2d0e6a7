"""Pytrees of arrays on disk through orbax; the only module that knows orbax's interface."""

import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from onceedit_jax.errors import InputError

# Orbax reports each save and restore at INFO and warns when a tree is restored as it was saved.
logging.getLogger("absl").setLevel(logging.ERROR)


def _alone() -> ocp.Context:
    """Trees are of this host's own arrays: it waits for no other to save or to read them."""
    host = jax.process_index()
    return ocp.Context(
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
        )
    )


def save_tree(folder: Path, tree: Any) -> None:
    """Write a nested dict of arrays; a kill in mid-save leaves any earlier tree in place."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    with _alone():
        ocp.save(fresh.absolute(), tree)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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
      lay: from the tree's shapes (`jax.ShapeDtypeStruct`) to where each array shall lie; devices
        then read what they hold (default: where it lay when it was saved).

    Raises:
      InputError: if the folder holds no complete tree.
    """
    if not has_tree(folder) or not ocp.is_orbax_checkpoint(folder.absolute()):
        raise InputError(
            f"{folder}: no complete orbax checkpoint here; "
            "give the folder that `onceedit edit --out` wrote, or edit again"
        )
    try:
        with warnings.catch_warnings(), _alone():
            warnings.simplefilter("ignore", UserWarning)
            if lay is None:
                return ocp.load(folder.absolute())
            shapes = jax.tree.map(
                lambda found: jax.ShapeDtypeStruct(found.shape, found.dtype),
                ocp.metadata(folder.absolute()).metadata,
            )
            wanted = jax.tree.map(
                lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
                shapes,
                lay(shapes),
            )
            return ocp.load(folder.absolute(), wanted)
    except (ValueError, KeyError, FileNotFoundError, OSError) as error:
        raise InputError(
            f"{folder}: this orbax checkpoint cannot be read ({str(error).splitlines()[0]}); "
            "it is damaged or of another model: edit again"
        ) from error
