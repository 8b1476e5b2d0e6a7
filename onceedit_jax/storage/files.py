"""Files and folders that appear only when they are complete; a folder replaces only its kind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from onceedit_jax.distributed.hosts import is_first, meet
from onceedit_jax.errors import InputError, RunError


class FolderKind(NamedTuple):
    """What a folder that is replaced as a whole may hold.

    Attributes:
      mark: the file that tells it from any other folder.
      entries: patterns of the names beside it.
    """

    mark: str
    entries: tuple[str, ...]


def check_replaceable(folder: Path, kind: FolderKind) -> None:
    """Make sure that writing this folder loses nothing but an earlier result of its kind.

    Raises:
      InputError: if something else is there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give the name of a folder to write")
    names = sorted(entry.name for entry in folder.iterdir())
    if names and kind.mark not in names:
        raise InputError(
            f"{folder}: this folder holds other files (no {kind.mark} among them) and would be "
            "replaced; give a new folder's name, or empty it yourself"
        )
    known = (kind.mark, *kind.entries)
    if others := [name for name in names if not any(fnmatch(name, entry) for entry in known)]:
        raise InputError(
            f"{folder}: {', '.join(others[:3])} would be lost when this folder is replaced; move "
            "away what is your own, or give a new folder's name"
        )


@contextmanager
def fresh_folder(folder: Path, kind: FolderKind, *, together: bool = False) -> Iterator[Path]:
    """Write a folder beside its place and move it there in the end.

    Args:
      folder: its place; an earlier result of the same kind is replaced, anything else refused.
      kind: what such a folder holds.
      together: whether several hosts write it, on a file system that they share.

    Yields:
      The empty folder to write to; whatever fails, it is removed and `folder` is as it was.

    Raises:
      InputError: if `folder` holds something else.
    """
    check_replaceable(folder, kind)
    # "." has no name to put another beside, and what a link points to is replaced, not the link.
    folder = folder.resolve()
    fresh, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    first = is_first(together)
    if first:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
    meet(together, f"{folder} begun")
    try:
        yield fresh
        meet(together, f"{folder} written")
        if first:
            if folder.exists():
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            fresh.rename(folder)
    finally:
        if first:
            if not folder.exists() and old.exists():
                old.rename(folder)
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)
    meet(together, f"{folder} in place")


def write_whole(path: Path, text: str) -> None:
    """Write a sibling and rename it, so that nobody ever sees half a file.

    Raises:
      RunError: the file cannot be written.
    """
    path = path.resolve()  # what a link points to is written, and the link stays
    try:
        handle, sibling = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(sibling, 0o666 & ~umask)  # mkstemp's own mode lets nobody else read it
            os.replace(sibling, path)
        except BaseException:
            os.unlink(sibling)
            raise
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); free the place or choose another"
        ) from error
