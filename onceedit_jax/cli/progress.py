"""Progress on standard error: bars in a terminal, and plain lines now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from onceedit_jax.cli.console import err, note
from onceedit_jax.editing.step_log import tensorboard_log
from onceedit_jax.editing.trainer import Progress as EditingStep

EVERY_SECONDS = 30.0


@runtime_checkable
class Display(Protocol):
    """Shows how far named pieces of work have come."""

    def show(self, title: str, done: int, total: int, detail: str = "") -> None:
        """Show that so much of a piece of work is done."""


@dataclass
class _Work:
    """A piece of work in a log."""

    begun: float
    first: int
    printed: float
    done: int
    total: int


class Lines:
    """Progress for a log: a line at the start, at most one every 30 s, and one at the end."""

    def __init__(
        self,
        write: Callable[[str], None] = note,
        *,
        every: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin without any work.

        Args:
          write: prints a line.
          every: seconds between two lines.
          clock: the time in seconds.
        """
        self._write, self._every, self._clock = write, every, clock
        self._open: dict[str, _Work] = {}

    def show(self, title: str, done: int, total: int, detail: str = "") -> None:
        """Print a line if it is the work's first or last one, or if one is due."""
        now = self._clock()
        new = title not in self._open
        work = self._open.setdefault(title, _Work(now, done, now, done, total))
        work.done, work.total = done, total
        behind = f" ({detail})" if detail else ""
        if done >= total:
            self._write(f"{title}: all {total} done in {duration(now - work.begun)}{behind}")
            del self._open[title]
        elif new or now - work.printed >= self._every:
            work.printed = now
            self._write(f"{title}: {done} of {total}{self._times(work, now)}{behind}")

    def close(self) -> None:
        """Print where unfinished work ended, as where an edit stops early."""
        for title, work in self._open.items():
            spent = duration(self._clock() - work.begun)
            self._write(f"{title}: ended at {work.done} of {work.total} after {spent}")
        self._open.clear()

    @staticmethod
    def _times(work: _Work, now: float) -> str:
        spent = now - work.begun
        if work.done <= work.first:
            return ""
        left = spent / (work.done - work.first) * (work.total - work.done)
        return f", {duration(spent)} so far, about {duration(left)} left"


class Bars:
    """Progress for a terminal: one bar a piece of work."""

    def __init__(self, bars: Progress) -> None:
        """Draw the bars of `bars`, which the caller starts and stops."""
        self._bars = bars
        self._tasks: dict[str, int] = {}

    def show(self, title: str, done: int, total: int, detail: str = "") -> None:
        """Move a work's bar; work that begins again has a new one."""
        known = self._tasks.get(title)
        if known is None or self._bars.tasks[known].finished:
            self._tasks[title] = len(self._bars.tasks)
            self._bars.add_task(title, total=total, detail="")
        task = self._bars.tasks[self._tasks[title]].id
        self._bars.update(task, total=total, completed=done, detail=detail)


@contextmanager
def display() -> Iterator[Display]:
    """Bars where standard error is a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        lines = Lines()
        yield lines
        lines.close()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bars:
        yield Bars(bars)


@contextmanager
def editing_progress(
    log_dir: Path | None = None,
) -> Iterator[Callable[[EditingStep], None]]:
    """Editing steps, with the loss, reliability and the gate's accuracy.

    Args:
      log_dir: folder for TensorBoard, which gets the same figures; None for no log.
    """
    log = nullcontext(lambda step: None) if log_dir is None else tensorboard_log(log_dir)
    with log as write, display() as shown:

        def show(step: EditingStep) -> None:
            write(step)
            figures = (
                f"epoch {step.epoch}, loss {step.loss:.3f}, Rel {step.reliability:.2f}, "
                f"gate {step.gate_accuracy:.2f}"
            )
            shown.show("editing steps", step.step, step.steps, figures)

        yield show


@contextmanager
def table_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Blocks of transfer tables, by model; nothing where the tables are in the cache."""
    with display() as shown:
        yield _blocks(shown)


@contextmanager
def evaluation_progress() -> Iterator[
    tuple[Callable[[str, int, int], None], Callable[[int, int], None]]
]:
    """Blocks of transfer tables, and records of an evaluation."""
    with display() as shown:
        yield _blocks(shown), lambda done, total: shown.show("evaluated records", done, total)


@contextmanager
def check_progress() -> Iterator[
    tuple[Callable[[str, int, int], None], Callable[[int, int], None]]
]:
    """Blocks of transfer tables, and questions that all targets have answered."""
    with display() as shown:
        yield _blocks(shown), lambda done, total: shown.show("questions asked", done, total)


def _blocks(shown: Display) -> Callable[[str, int, int], None]:
    return lambda name, done, total: shown.show(f"transfer table of {name}, blocks", done, total)


def duration(seconds: float) -> str:
    """A time as people write it: 42 s, 3 min 5 s, 2 h 10 min."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{whole} s"
