"""The ledger of an artifact on disk: read, and edits taken back.

Neither JAX nor any weight is needed here, so that an edit is taken back at once.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from onceedit_jax.editing.artifact_info import EditInfo, Operation, read_info, write_info
from onceedit_jax.editing.ledger import reverted
from onceedit_jax.errors import InputError
from onceedit_jax.storage.locks import locked


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


def revert_edits(folder: Path, ids: Sequence[int], *, by: str | None = None) -> EditInfo:
    """Take edits back: nothing is trained, and no weight is read.

    What an edit had superseded answers again; everything else stays as it is.

    Args:
      folder: the artifact.
      ids: of the edits.
      by: who does it, for the ledger (default: whoever runs this process).

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
        done = Operation.just_done("revert", ids, time.monotonic() - begun, by)
        info = dataclasses.replace(info, edits=edits, operations=(*info.operations, done))
        write_info(folder, info)
        return info
