"""`onceedit add`: teach an edited plug-in more facts; those that it has stay as they are."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from onceedit_jax.editing.settings import EditSettings

if TYPE_CHECKING:
    from onceedit_jax.editing.upkeep import Added


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """More facts for an edited plug-in.

    Attributes:
      facts: file of edits, or the hub name of a data set.
      to: folder of the edited plug-in.
      format: layout of the edits: auto, or the name of a reader.
      last_wins: where two edits of the file contradict each other, take the later one.
      base: the model that was edited; None takes it from where it was.
      log_dir: folder for TensorBoard, which gets the figures of every step.
      settings: how the adapter is trained.
    """

    facts: Annotated[Positional[str], arg(metavar="FACTS")]
    to: Path
    format: str = "auto"
    last_wins: bool = False
    base: str | None = None
    log_dir: Path | None = None
    settings: EditSettings = EditSettings()  # noqa: RUF009 (frozen)


def add(options: Annotated[AddOptions, arg(name="")]) -> None:
    """Teach an edited plug-in more facts; those that it has stay as they are."""
    from onceedit_jax.cli.console import warn
    from onceedit_jax.cli.progress import editing_progress
    from onceedit_jax.data.loaders import load_records
    from onceedit_jax.editing.upkeep import add_edits

    records = load_records(options.facts, options.format, on_warning=warn)
    with editing_progress(options.log_dir) as on_step:
        done = add_edits(
            options.to,
            records,
            options.settings,
            last_wins=options.last_wins,
            base=options.base,
            on_step=on_step,
            on_warning=warn,
        )
    print_added(done, options.to)


def print_added(done: "Added", folder: Path) -> None:
    """Print what came, and what it took the place of."""
    from onceedit_jax.cli.console import out

    for record in done.known:
        out.print(f"known already: {record.prompt} -> {record.target}")
    for entry in done.edits:
        olds = ", ".join(map(str, done.superseded.get(entry.id, [])))
        instead = f" (in place of {olds})" if olds else ""
        out.print(f"{entry.id}: {entry.prompt} -> {entry.target}{instead}")
    out.print(f"added {len(done.edits)} edits: {folder}")
