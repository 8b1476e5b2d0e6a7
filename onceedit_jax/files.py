"""Files and folders that appear only when they are complete; a folder replaces only its kind."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.hosts import is_first, meet


def check_replaceable(folder: Path, *, mark: str) -> None:
    """Make sure that writing this folder loses nothing.

    Args:
      folder: what shall be written.
      mark: the file that an earlier result of the same kind holds.

    Raises:
      InputError: if something else is there.
    """
    if not folder.exists() or (folder / mark).is_file():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give the name of a folder to write")
    if any(folder.iterdir()):
        raise InputError(
            f"{folder}: this folder holds other files (no {mark} among them) and would be "
            "replaced; give a new folder's name, or empty it yourself"
        )


@contextmanager
def fresh_folder(folder: Path, *, mark: str, together: bool = False) -> Iterator[Path]:
    """Write a folder beside its place and move it there in the end.

    Args:
      folder: its place; an earlier result of the same kind is replaced, anything else refused.
      mark: the file by which that kind is known.
      together: whether several hosts write it, on a file system that they share.

    Yields:
      The empty folder to write to; whatever fails, it is removed and `folder` is as it was.

    Raises:
      InputError: if `folder` holds something else.
    """
    check_replaceable(folder, mark=mark)
    folder = folder.absolute()  # "." has no name to put another beside
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
