"""The ledger of an artifact on disk: held while it changes, and edits taken back.

Neither JAX nor any weight is needed here, so that an edit is taken back at once.
"""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from onceedit_jax.editing.artifact_info import EditInfo, Operation, now, read_info, write_info
from onceedit_jax.editing.ledger import reverted
from onceedit_jax.errors import InputError, RunError


def read_ledger(folder: Path) -> EditInfo:
    """What an artifact says of itself, if its edits can come and go.

    Raises:
      InputError: its edits are in the weights, or it cannot be read.
    """
    info = read_info(folder)
    if not info.in_adapters:
        raise InputError(
            f"{folder}: its edits are in the weights, and cannot come and go by themselves; edit "
            "again with `--method adapter` (without a relation head, `onceedit gate-train` first)"
        )
    return info


@contextmanager
def locked(folder: Path, *, seconds: float = 600.0) -> Iterator[None]:
    """Hold an artifact, so that two programs that change it cannot lose each other's edits.

    The lock is a file beside the folder: it stays where the folder is replaced as a whole.

    Args:
      folder: the artifact.
      seconds: how long another program is waited for.

    Raises:
      RunError: another program has held it all that time, or the lock cannot be written.
    """
    place = folder.resolve()
    lock = FileLock(place.with_name(f".{place.name}.lock"), timeout=seconds)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"{folder}: another program has been changing this artifact for {seconds:.0f} s; wait "
            "until it has ended, and try again. Nothing was changed"
        ) from error
    except OSError as error:
        raise RunError(
            f"{lock.lock_file}: cannot be written ({error.strerror}); whoever changes an artifact "
            "has to write beside its folder: check permissions and free space. Nothing was changed"
        ) from error
    try:
        yield
    finally:
        lock.release()


def revert_edits(folder: Path, ids: Sequence[int]) -> EditInfo:
    """Take edits back: nothing is trained, and no weight is read.

    What an edit had superseded answers again; everything else stays as it is.

    Args:
      folder: the artifact.
      ids: of the edits.

    Returns:
      What the artifact says of itself now.

    Raises:
      InputError: an id that no edit has, or of one that was taken back before.
    """
    read_ledger(folder)  # before a lock is written for what is no artifact
    with locked(folder):
        begun = time.monotonic()
        info = read_ledger(folder)
        edits = reverted(info.edits, ids)
        done = Operation(now(), "revert", tuple(ids), time.monotonic() - begun)
        info = dataclasses.replace(info, edits=edits, operations=(*info.operations, done))
        write_info(folder, info)
        return info
