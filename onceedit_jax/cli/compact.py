"""`onceedit compact`: train all edits that answer again, in one adapter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from onceedit_jax.editing.settings import EditSettings


@dataclass(frozen=True)
class CompactOptions:
    """An edited plug-in whose adapters become one.

    Attributes:
      edited: folder of the edited plug-in.
      base: the model that was edited; None takes it from where it was.
      settings: how the adapter is trained.
    """

    edited: Annotated[Positional[Path], arg(metavar="DIR")]
    base: str | None = None
    settings: EditSettings = EditSettings()  # noqa: RUF009 (frozen)


def compact(options: Annotated[CompactOptions, arg(name="")]) -> None:
    """Train all edits that answer again, in one adapter, and remove those that nothing needs."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.cli.progress import editing_progress
    from onceedit_jax.editing.upkeep import compact_edits

    with editing_progress() as on_step:
        info = compact_edits(options.edited, options.settings, base=options.base, on_step=on_step)
    out.print(f"{len(info.live)} edits are in one adapter now: {options.edited}")
