"""`onceedit show`: one edit of a plug-in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


@dataclass(frozen=True, kw_only=True)
class ShowOptions:
    """One edit of a plug-in.

    Attributes:
      number: id of the edit.
      edited: folder of the edited plug-in.
    """

    number: Annotated[Positional[int], arg(metavar="ID")]
    edited: Path


def show(options: Annotated[ShowOptions, arg(name="")]) -> None:
    """Print what is known of one edit."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.artifact_info import read_info
    from onceedit_jax.editing.ledger import find

    info = read_info(options.edited)
    entry = find(info.edits, options.number)
    replaced = [str(old.id) for old in info.edits if old.superseded_by == entry.id]
    mates = sum(one.adapter == entry.adapter for one in info.edits) - 1
    told = {
        "id": entry.id,
        "state": entry.state,
        "prompt": entry.prompt,
        "answer": entry.target,
        "also right": ", ".join(entry.accepted),
        "subject": entry.subject,
        "aliases": ", ".join(entry.aliases),
        "rephrase": " | ".join(entry.record().rephrases),
        "added": entry.added,
        "source": entry.source,
        "in place of": ", ".join(replaced),
        "superseded by": entry.superseded_by,
    }
    if entry.adapter is not None:
        told["adapter"] = f"{entry.adapter}, with {mates} other edits"
    for name, value in told.items():
        if value not in (None, ""):
            out.print(f"{name}: {value}")
