"""What a person sees while the library works: progress bars on standard error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onceedit_jax.editing.trainer import Progress as Step

err = Console(stderr=True, markup=False)  # "[/INST]" is a text like any other


@contextmanager
def editing_progress() -> Iterator[Callable[[Step], None]]:
    """A bar with loss, reliability, the gate's accuracy and the time left."""
    columns = (
        TextColumn("editing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("", total=None)

        def show(step: Step) -> None:
            text = (
                f"epoch {step.epoch}  loss {step.loss:.3f}  Rel {step.reliability:.2f}  "
                f"gate {step.gate_accuracy:.2f}"
            )
            bar.update(task, total=step.steps, completed=step.step, description=text)

        yield show


@contextmanager
def table_progress() -> Iterator[Callable[[str, int, int], None]]:
    """One bar per transfer table; none where the tables are in the cache."""
    columns = (
        TextColumn("transfer table of {task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        tasks: dict[str, int] = {}

        def show(name: str, done: int, total: int) -> None:
            if name not in tasks or bar.tasks[tasks[name]].finished:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(bar.tasks[tasks[name]].id, completed=done)

        yield show
