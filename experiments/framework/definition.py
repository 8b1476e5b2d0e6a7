"""What an experiment is: a question, cells that are measured one by one, tables and figures."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import experiments
from onceedit_jax.errors import InputError

Cell = Mapping[str, Any]  # describes one measurement, in JSON values
Result = Mapping[str, Any]  # the figures that a cell gave, in JSON values
Results = Mapping[str, Result]  # by the cell's name

PLUGIN = "demo:smollm2-135m"
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")


@dataclass(frozen=True)
class Setup:
    """The configuration that all experiments share; an experiment adds its own fields.

    Attributes:
      limit: number of edits, the first of a data set.
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


@dataclass(frozen=True)
class Table:
    """A table of a page.

    Attributes:
      name: its mark on the page, `<!-- table: NAME -->`.
      title: the line above it.
      columns: their headings.
      rows: their values; floats are shown with three decimals, below .0005 with three digits.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True)
class Figure:
    """A picture of a page.

    Attributes:
      name: its mark on the page, `<!-- figure: NAME -->`, and its file, `NAME.svg`.
      caption: what it shows.
      draw: draws on a matplotlib figure.
    """

    name: str
    caption: str
    draw: Callable[[Any], None]


def no_figures(setup: Any, results: Results) -> Sequence[Figure]:
    """The figures of an experiment that has none."""
    return ()


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
      title: the page's title.
      question: what is asked, one sentence.
      setup: the class of its configuration.
      cells: from the configuration to the name and the description of each cell, in order. The
        description holds all that the cell's result depends on beside the fields of `Setup`.
      run: measures one cell: `run(workspace, setup, cell)`.
      tables: from the configuration and the results of all measured cells to the page's tables.
      figures: the same, to its pictures.
    """

    title: str
    question: str
    setup: type[Setup]
    cells: Callable[[Any], Mapping[str, Cell]]
    run: Callable[[Any, Any, Cell], Result]
    tables: Callable[[Any, Results], Sequence[Table]]
    figures: Callable[[Any, Results], Sequence[Figure]] = no_figures


def short(spec: str) -> str:
    """The name of a model in cells and on pages: the last part of its name or path."""
    return spec.split(":")[-1].rstrip("/").split("/")[-1]


def names() -> list[str]:
    """The names of all experiments, as the command line takes them."""
    modules = pkgutil.iter_modules(experiments.__path__)
    return sorted(
        module.name.replace("_", "-")
        for module in modules
        if not module.ispkg and not module.name.startswith("_")
    )


def load_experiment(name: str) -> Experiment:
    """The `EXPERIMENT` of the module `experiments.NAME`, dashes in the name being underscores.

    Raises:
      InputError: there is no such module, or it defines no `EXPERIMENT`.
    """
    if name not in names():
        raise InputError(f"experiment {name!r}: expected one of {', '.join(names())}")
    module = importlib.import_module(f"experiments.{name.replace('-', '_')}")
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"{module.__file__}: defines no EXPERIMENT; experiments/README.md says how to write one"
        )
    return experiment


def load_setup(path: Path, kind: type[Setup]) -> Setup:
    """A configuration from its YAML file.

    Raises:
      InputError: there is no such file, it is not YAML, or it has an unknown key.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected the experiment's configuration there")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error})") from error
    return setup_from(values, kind, path)


def setup_from(values: Any, kind: type[Setup], where: Path) -> Setup:
    """A configuration from its plain values.

    Raises:
      InputError: the values are not a mapping, or have an unknown key.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected keys and values, found {type(values).__name__}")
    known = [entry.name for entry in dataclasses.fields(kind)]
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; expected some of {', '.join(known)}")
    return kind(**values)
