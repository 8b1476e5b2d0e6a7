"""`onceedit info`: what an edited plug-in is made of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

SHOWN_EDITS = 10


@dataclass(frozen=True)
class InfoOptions:
    """An edited plug-in.

    Attributes:
      edited: folder of the edited plug-in.
    """

    edited: Annotated[Positional[Path], arg(metavar="DIR")]


def info(options: Annotated[InfoOptions, arg(name="")]) -> None:
    """Print what an edited plug-in is made of."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.artifact_info import read_info

    info = read_info(options.edited)
    values, edits = info.as_dict(), info.live
    for key in ("hf_config", "config"):
        values["base"].pop(key, None)
    values.pop("history", None)
    values["edits"], values["trained_texts"] = len(edits), len(values["trained_texts"])
    values["operations"] = len(values["operations"])
    out.print_json(json.dumps(values))
    for edit in edits[:SHOWN_EDITS]:
        out.print(f"  {edit.prompt} -> {edit.target}")
    if len(edits) > SHOWN_EDITS:
        out.print(f"  and {len(edits) - SHOWN_EDITS} more")
