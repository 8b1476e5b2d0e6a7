"""The paper's own pairs: one plug-in, one target, both data sets, its rule and ours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.scores import HEADINGS, score_rows

TITLE = "A pair of the paper"
QUESTION = "Does a pair of the paper's models reach the paper's averages?"

# The paper's rule: relative space, [WEIGHT] alone, its search by gradient, no threshold.
RULES: dict[str, dict[str, Any]] = {
    "paper": {
        "preset": "relative",
        "search": "gradient",
        "normalization": "deepen",
        "gate": "token",
        "alpha_threshold": 0.0,
    },
    "relative": {"preset": "relative"},
    "draft": {"preset": "draft"},
}


@dataclass(frozen=True)
class PaperSetup(Setup):
    """What is measured of a pair.

    Attributes:
      datasets: whose edits.
      rules: of `RULES`; `paper` computes rows of the tables again and again, and takes long.
      published: the paper's Avg of this pair by data set.
    """

    limit: int = 1000
    datasets: Sequence[str] = ("zsre", "counterfact")
    rules: Sequence[str] = tuple(RULES)
    published: Mapping[str, float] | None = None


def cells(setup: PaperSetup) -> Mapping[str, Cell]:
    """One cell a data set and rule."""
    return {
        f"{dataset}, {rule}": {"dataset": dataset, "rule": RULES[rule]}
        for dataset in setup.datasets
        for rule in setup.rules
    }


def run(workspace: Workspace, setup: PaperSetup, cell: Cell) -> Result:
    """Edit once a data set, and score the target by the rule, teacher-forced as in the paper."""
    plugin = workspace.plugin(cell["dataset"], workspace.settings())
    ensemble = workspace.ensemble(plugin, setup.targets, cell["rule"])
    return workspace.evaluate(ensemble, workspace.records(cell["dataset"]))


def tables(setup: PaperSetup, results: Results) -> Sequence[Table]:
    """Scores beside the published average of the pair."""
    published = setup.published or {}
    rows = [
        [*row, score["contradicting"], published.get(name.split(",")[0])]
        for name, result in results.items()
        for score in result["scores"]
        for row in score_rows([name], [score])
    ]
    columns = ("rule", "target", *HEADINGS, "contradicting edits", "paper's Avg")
    return [Table("scores", "Scores after editing.", columns, rows)]


EXPERIMENT = Experiment(TITLE, QUESTION, PaperSetup, cells, run, tables)
