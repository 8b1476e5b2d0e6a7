"""What an experiment is: a question, cells that are measured one by one, and a page about them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = Mapping[str, Any]  # what distinguishes one measurement from another, JSON values
Result = Mapping[str, Any]  # what it found, JSON values

PLUGIN = "demo:smollm2-135m"
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")


@dataclass(frozen=True)
class Setup:
    """What every experiment can be told in its YAML file; an experiment adds its own.

    Attributes:
      limit: edits, the first of a data set.
      plugin: the model that is edited.
      targets: the LLMs that answer.
      editing: settings of the editing stage that differ from the defaults.
      seed: the one source of randomness.
    """

    limit: int = 50
    plugin: str = PLUGIN
    targets: Sequence[str] = TARGETS
    editing: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


def short(spec: str) -> str:
    """How cells and pages call a model: the last part of its name or path."""
    return spec.split(":")[-1].rstrip("/").split("/")[-1]


@dataclass(frozen=True)
class Table:
    """A table of a page; numbers are shown with three digits."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """A picture of a page.

    Attributes:
      name: of its file, without suffix.
      caption: what it shows.
      draw: draws on a matplotlib figure.
    """

    name: str
    caption: str
    draw: Callable[[Any], None]


@dataclass(frozen=True)
class Page:
    """What came out: a paragraph that says it and whether the claim holds, tables, figures."""

    outcome: str
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
      title: one line.
      expected: a paragraph: what the paper says, or what we thought beforehand.
      setup: the class of its configuration.
      cells: from the configuration, name and description of each cell, in order. What a cell
        depends on, beside the fields of `Setup`, is in its description.
      run: measures one cell.
      page: from all cells that have been measured, by name, to the page.
    """

    title: str
    expected: str
    setup: type[Setup]
    cells: Callable[[Any], Mapping[str, Cell]]
    run: Callable[[Any, Any, Cell], Result]
    page: Callable[[Any, Mapping[str, Result]], Page]
