"""`onceedit history`: what was done to the edits of a plug-in, and when."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

SHOWN = 8  # ids of an operation


@dataclass(frozen=True)
class HistoryOptions:
    """An edited plug-in.

    Attributes:
      edited: folder of the edited plug-in.
    """

    edited: Annotated[Positional[Path], arg(metavar="DIR")]


def history(options: Annotated[HistoryOptions, arg(name="")]) -> None:
    """Print what was done to the edits of a plug-in, oldest first: when, what and by whom."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.artifact_info import read_info

    for done in read_info(options.edited).operations:
        ids = ", ".join(map(str, done.edits[:SHOWN]))
        more = f" and {len(done.edits) - SHOWN} more" if len(done.edits) > SHOWN else ""
        by = f", by {done.by}" if done.by else ""
        out.print(f"{done.time} {done.kind} {ids}{more} ({done.seconds:.1f} s{by})")
