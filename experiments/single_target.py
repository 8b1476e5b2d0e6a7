"""The plug-in and one LLM: what does a target keep of the plug-in's answers?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.scores import HEADINGS, METRICS, score_rows

TITLE = "One target"
QUESTION = "What does a single target keep of the plug-in's answers?"


@dataclass(frozen=True)
class SingleSetup(Setup):
    """`dataset`: whose edits."""

    dataset: str = "zsre"


def cells(setup: SingleSetup) -> Mapping[str, Cell]:
    """One cell a target."""
    return {short(spec): {"dataset": setup.dataset, "target": spec} for spec in setup.targets}


def run(workspace: Workspace, setup: SingleSetup, cell: Cell) -> Result:
    """Scores, teacher-forced and in free generation."""
    plugin = workspace.plugin(setup.dataset, workspace.settings())
    ensemble = workspace.ensemble(plugin, [cell["target"]])
    return workspace.evaluate(ensemble, workspace.records(setup.dataset), "both")


def tables(setup: SingleSetup, results: Results) -> Sequence[Table]:
    """Scores before and after; and the target's beside the plug-in's own."""
    shares = []
    for name, result in results.items():
        forced = next(s["after"] for s in result["scores"] if s["mode"] == "teacher-forced")
        alone = result["plugin"]
        pairs = [(alone[metric], forced[metric]) for metric in ("rel", "gen")]
        shares.append(
            [name, *(value for a, b in pairs for value in (a, b, b / max(a, 1e-9)))],
        )
    return [
        Table(
            "scores",
            "Before and after the edit.",
            ("target", "mode", "", *HEADINGS, "Portability"),
            [
                [name, score["mode"], when, *row[1:]]
                for name, result in results.items()
                for score in result["scores"]
                for when in ("before", "after")
                for row in score_rows([], [score], when=when, metrics=(*METRICS, "portability"))
            ],
        ),
        Table(
            "kept",
            "The plug-in by itself, the target with it, and the share that is kept, "
            "teacher-forced.",
            ("target", "Rel alone", "Rel", "share", "Gen alone", "Gen", "share"),
            shares,
        ),
    ]


EXPERIMENT = Experiment(TITLE, QUESTION, SingleSetup, cells, run, tables)
