"""`onceedit revert`: take edits back, at once and without training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class RevertOptions:
    """Edits to take back.

    Attributes:
      numbers: ids of the edits.
      edited: folder of the edited plug-in.
    """

    numbers: Annotated[Positional[tuple[int, ...]], arg(metavar="ID")]
    edited: Path


def revert(options: Annotated[RevertOptions, arg(name="")]) -> None:
    """Take edits back: what they had superseded answers again, or the target as it was."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.artifact_info import read_info
    from onceedit_jax.editing.ledger_file import revert_edits

    before = {entry.id for entry in read_info(options.edited).live}
    info = revert_edits(options.edited, options.numbers)
    for number in options.numbers:
        out.print(f"taken back: {number}")
    for entry in info.live:
        if entry.id not in before:
            out.print(f"answers again: {entry.id}: {entry.prompt} -> {entry.target}")
    out.print(f"{len(info.live)} of {len(info.edits)} edits answer")
