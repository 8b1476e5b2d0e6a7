"""`onceedit list`: the edits of a plug-in, with their ids."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from onceedit_jax.editing.artifact_info import EditEntry


@dataclass(frozen=True)
class ListOptions:
    """An edited plug-in.

    Attributes:
      edited: folder of the edited plug-in.
      all: list edits that do not answer any more too.
      about: only edits whose prompt, answer, subject or aliases hold this text.
    """

    edited: Annotated[Positional[Path], arg(metavar="DIR")]
    all: bool = False
    about: str | None = None


def list_edits(options: Annotated[ListOptions, arg(name="")]) -> None:
    """List the edits of a plug-in: id, state, prompt and answer."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.artifact_info import read_info

    info = read_info(options.edited)
    wanted = (options.about or "").casefold()
    shown = [
        entry
        for entry in (info.edits if options.all else info.live)
        if wanted in " ".join(_texts(entry)).casefold()
    ]
    for entry in sorted(shown, key=lambda entry: entry.id):
        state = f"[{entry.state}] " if options.all else ""
        out.print(f"{entry.id}: {state}{entry.prompt} -> {entry.target}")
    out.print(f"{len(info.live)} of {len(info.edits)} edits answer")


def _texts(entry: "EditEntry") -> list[str]:
    return [entry.prompt, entry.target, entry.subject or "", *entry.aliases]
