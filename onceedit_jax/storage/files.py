"""Write files and folders so that they appear only when complete, without losing other files."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from onceedit_jax.distributed.hosts import barrier, first_decides, is_first
from onceedit_jax.errors import InputError, OnceEditError, RunError
from onceedit_jax.storage.locks import WAIT, locked
from onceedit_jax.storage.text_files import check_place


class FolderKind(NamedTuple):
    """The contents of a folder that may be replaced as a whole.

    Attributes:
      mark: a file that every folder of this kind has, and no other folder.
      entries: patterns for the names of all its other files.
    """

    mark: str
    entries: tuple[str, ...]


def check_replaceable(folder: Path, kind: FolderKind) -> None:
    """Check that `folder` is new, empty, or an earlier result of the same kind.

    Raises:
      InputError: it is something else, or holds other files too.
    """
    if not check_place(folder).exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: this is a file; give the name of a folder")
    names = sorted(entry.name for entry in folder.iterdir())
    if names and kind.mark not in names:
        raise InputError(
            f"{folder}: this folder holds other files, and no {kind.mark}; replacing it would "
            "delete them: give the name of a new folder, or empty this one"
        )
    known = (kind.mark, *kind.entries)
    if others := [name for name in names if not any(fnmatch(name, entry) for entry in known)]:
        raise InputError(
            f"{folder}: {', '.join(others[:3])} would be lost when this folder is replaced; move "
            "your own files away, or give the name of a new folder"
        )


@contextmanager
def locked_by_first(place: Path, *, together: bool, seconds: float = WAIT) -> Iterator[None]:
    """`locked` by the first of several hosts; all of them raise where it cannot be held.

    Args:
      place: what is written, on a file system that they share.
      together: whether there are other hosts, which call this too.
      seconds: as for `locked`.

    Raises:
      InputError, RunError: as for `locked`.
    """
    with ExitStack() as stack:
        failure: OnceEditError | None = None
        if is_first(together):
            try:
                stack.enter_context(locked(place, seconds=seconds))
            except OnceEditError as error:
                failure = error
        if not first_decides(together, failure is None):
            raise failure or RunError(f"{place}: the first host cannot write here; see its message")
        yield


@contextmanager
def fresh_folder(folder: Path, kind: FolderKind, *, together: bool = False) -> Iterator[Path]:
    """Write a folder under a temporary name, and rename it when it is complete.

    Args:
      folder: final name; an earlier result of the same kind is replaced.
      kind: contents of such a folder.
      together: several hosts write the folder, on a file system that they share.

    Yields:
      An empty folder to write to. After an error it is removed, and `folder` is as it was.

    Raises:
      InputError: `folder` holds something else.
      RunError: it cannot be written, or another program is writing it.
    """
    # "." has no name to derive others from; and for a link, its target is replaced, not the link.
    folder = check_place(folder)
    check_replaceable(folder, kind)  # before a lock is left beside what is something else
    fresh, old = (folder.with_name(f".{folder.name}.{end}") for end in ("partial", "old"))
    first = is_first(together)
    with locked_by_first(folder, together=together):
        if first:
            _put_back(folder, fresh, old)  # after a run that was killed
            check_replaceable(folder, kind)
            fresh.mkdir()
        barrier(together, f"{folder} begun")
        try:
            yield fresh
            barrier(together, f"{folder} written")
            if first:
                if folder.exists():
                    folder.rename(old)
                fresh.rename(folder)
        except OSError as error:
            raise RunError(
                f"{folder}: cannot be written ({error.strerror or error}); check permissions and "
                "free space, or choose another folder. What was there is unchanged"
            ) from error
        finally:
            if first:
                _put_back(folder, fresh, old)
        barrier(together, f"{folder} in place")


def _put_back(folder: Path, fresh: Path, old: Path) -> None:
    """The folder as it was, where it was not replaced whole; nothing is left beside it."""
    if not folder.exists() and old.exists():
        old.rename(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
