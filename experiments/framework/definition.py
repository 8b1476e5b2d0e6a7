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
    """A table of a page; numbers have three decimals, below .0005 three digits."""

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
    """What was found.

    Attributes:
      outcome: a paragraph: what came out.
      claim: whether what the paper claims holds here, see `judged`.
      tables: the numbers; the first is the one a report shows by itself.
      figures: pictures.
    """

    outcome: str
    claim: str
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()


def judged(claim: str, holds: bool | None, why: str) -> str:
    """A claim of the paper and whether it holds here, in words.

    Args:
      claim: what is claimed, as the rest of a sentence that begins with "that".
      holds: whether it does; None where too little is measured yet.
      why: by which numbers.
    """
    verdict = {True: "holds here", False: "does not hold here", None: "is not decided yet"}[holds]
    return f"It says that {claim}. This {verdict}: {why}."


OPEN = "It makes no claim about this."


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
