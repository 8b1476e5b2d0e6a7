"""Locks on what is written: two programs that write to one place cannot lose each other's work.

A lock is a hidden file beside the place, which the system holds for a process: it is free again
when that process has ended, however it ended. The file says who holds it, and since when.

JAX is not needed here.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from onceedit_jax.errors import RunError
from onceedit_jax.storage.text_files import check_place

WAIT = 600.0  # seconds; writing takes a few


@contextmanager
def locked(place: Path, *, seconds: float = WAIT) -> Iterator[None]:
    """Hold a folder or a file that is changed or made; a thread may hold it several times over.

    Args:
      place: what is written, whether it exists or not.
      seconds: how long another program is waited for; 0 does not wait.

    Raises:
      InputError: as `check_place`.
      RunError: another program has held it all that time, or the lock cannot be written.
    """
    place = check_place(place)
    path = place.with_name(f".{place.name}.lock")
    lock = FileLock(path, is_singleton=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except Timeout as error:
        waited = f" It was waited for {seconds:.0f} s." if seconds else ""
        raise RunError(
            f"{place}: {_owner(path)} is writing here; wait until it has ended, or choose another "
            f"place.{waited} Nothing was changed"
        ) from error
    except OSError as error:
        raise RunError(
            f"{path}: cannot be written ({error.strerror}); whoever writes {place.name} has to "
            "write beside it: check permissions and free space. Nothing was changed"
        ) from error
    try:
        if lock.lock_counter == 1:
            _write_owner(path)
        yield
    finally:
        lock.release()


def _write_owner(path: Path) -> None:
    """Say who holds a lock; a full disk leaves it without a name."""
    with suppress(OSError):
        since = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        path.write_text(f"{os.getpid()}\n{platform.node()}\n{since}\n", encoding="utf-8")


def _owner(path: Path) -> str:
    """Who holds a lock, as its file says."""
    try:
        process, host, since = path.read_text(encoding="utf-8").split("\n")[:3]
    except (OSError, ValueError):
        return "another program"
    return f"process {process} on {host}, since {since},"
