"""Check the hashes of everything below a folder: artifacts, checkpoints, tables, cached models.

Neither JAX nor any array is needed here.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from onceedit_jax.editing.artifact_info import MARK, folders_of, read_info
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import check_regular
from onceedit_jax.storage.checksums import SUMS, check_sealed, check_sums, is_sealed, sha256_of
from onceedit_jax.storage.sources import known_sha256

_REMEDY = "restore it from a copy, or make it again"
_SEALED = frozenset({"relation-heads", "tables", "converted"})  # in the cache folder
_ENDING = ".safetensors"


class Verified(NamedTuple):
    """One thing that carries hashes.

    Attributes:
      path: the artifact, folder or file.
      fault: what is wrong with it; None if nothing is.
    """

    path: Path
    fault: str | None


def verify(folder: Path) -> list[Verified]:
    """Check everything below a folder that carries SHA-256.

    Returns:
      What was checked, in order.

    Raises:
      InputError: nothing below the folder carries hashes.
    """
    checked = [Verified(path, _fault(path)) for path in _places(folder)]
    if not checked:
        raise InputError(
            f"{folder}: nothing here carries hashes; give an artifact, a checkpoint, the cache "
            "folder or one of its files"
        )
    return checked


def _places(folder: Path) -> Iterator[Path]:
    """Artifacts, other folders with hashes, and files that hold their own or have known ones."""
    if folder.is_file():
        yield folder
        return
    for parent, folders, files in os.walk(folder):
        place = Path(parent)
        folders.sort()
        if MARK in files or SUMS in files:
            yield place
            folders.clear()
            continue
        for name in sorted(files):
            # What has lost its hash by damage is named too.
            sealed = is_sealed(place / name) or (place.name in _SEALED and name.endswith(_ENDING))
            if sealed or known_sha256(place / name):
                yield place / name


def _fault(path: Path) -> str | None:
    try:
        _check(path)
    except InputError as error:
        return str(error)
    return None


def _check(path: Path) -> None:
    if path.is_dir() and (path / MARK).exists():
        info = read_info(path)
        if not info.checksums:
            raise InputError(
                f"{path}: was written by a version without hashes, so that damage cannot be seen; "
                "edit again, or save it again, to have them"
            )
        if missing := sorted({*folders_of(info)} - info.checksums.keys()):
            raise InputError(
                f"{path}: {', '.join(missing)} were written by a version without hashes, so that "
                "damage cannot be seen there; edit again to have them"
            )
        for name, digest in info.checksums.items():
            check_sums(path / name, digest, remedy=_REMEDY)
        # Adapters of edits that were taken back are not named any more, but hold hashes.
        for other in sorted(path.glob(f"*/*/{SUMS}")):
            check_sums(other.parent, None, remedy=_REMEDY)
    elif path.is_dir():
        check_sums(path, None, remedy=_REMEDY)
    elif known := known_sha256(path):
        check_regular(path)
        if (found := sha256_of(path)) != known:
            raise InputError(f"{path}: its SHA-256 is {found}, expected {known}; {_REMEDY}")
    else:
        check_sealed(path, remedy=_REMEDY)
