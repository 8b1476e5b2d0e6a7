"""`onceedit replace`: give an edit another answer, whatever it was asked in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReplaceOptions:
    """A fact in the place of an edit.

    Attributes:
      number: id of the edit.
      facts: file with the one fact that takes its place.
      edited: folder of the edited plug-in.
      format: layout of the file: auto, or the name of a reader.
      base: the model that was edited; None takes it from where it was.
      settings: how the adapter is trained.
    """

    number: Annotated[Positional[int], arg(metavar="ID")]
    facts: Annotated[Positional[str], arg(metavar="FACTS")]
    edited: Path
    format: str = "auto"
    base: str | None = None
    settings: EditSettings = EditSettings()  # noqa: RUF009 (frozen)


def replace(options: Annotated[ReplaceOptions, arg(name="")]) -> None:
    """Let a fact answer in the place of an edit, even if the gate takes them for two facts."""
    from onceedit_jax.cli.add import print_added
    from onceedit_jax.cli.console import warn
    from onceedit_jax.cli.progress import editing_progress
    from onceedit_jax.data.loaders import load_records
    from onceedit_jax.editing.upkeep import add_edits

    records = load_records(options.facts, options.format, on_warning=warn)
    if len(records) != 1:
        raise InputError(f"{options.facts}: holds {len(records)} facts; expected one")
    with editing_progress() as on_step:
        done = add_edits(
            options.edited,
            records,
            options.settings,
            replacing=[options.number],
            base=options.base,
            on_step=on_step,
            on_warning=warn,
        )
    print_added(done, options.edited)
