"""Reliability, generality and locality with 100 to 1,000 edits: the table of the README."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.framework import Cell, Experiment, Result, Results, Setup, Table, Workspace
from experiments.framework.scores import HEADINGS, METRICS

TITLE = "Quality at 100 to 1,000 edits"
QUESTION = "Which scores does a user get with 100 to 1,000 edits?"

# Rel, Gen, Loc and Avg that were set as the goal before anything was measured.
GOALS = {
    "zsre 100": (0.98, 0.90, 0.99, 0.95),
    "zsre 700": (0.95, 0.85, 0.99, 0.93),
    "counterfact 100": (0.97, 0.80, 0.90, 0.88),
    "counterfact 1000": (0.95, 0.70, 0.85, 0.82),
}
PAPER = {"zsre": 0.92, "counterfact": 0.68}  # its averages over three targets, 1,000 edits


@dataclass(frozen=True)
class QualitySetup(Setup):
    """What is measured.

    Attributes:
      runs: data set, number of edits, and settings of the edit, of each cell.
      others: number of unedited questions of the edits' form.
    """

    runs: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    others: int = 200


def cells(setup: QualitySetup) -> Mapping[str, Cell]:
    """One cell a data set and size; no size is above `limit`."""
    found: dict[str, Cell] = {}
    for run in setup.runs:
        edits = min(int(run["edits"]), setup.limit)
        cell = {**run, "edits": edits, "others": setup.others}
        found.setdefault(f"{run['dataset']} {edits}", cell)
    return found


def run(workspace: Workspace, setup: QualitySetup, cell: Cell) -> Result:
    """Edit, then score both targets, teacher-forced and in free generation."""
    dataset, edits = cell["dataset"], cell["edits"]
    settings = workspace.settings(cell.get("editing", {}))
    plugin = workspace.plugin(dataset, settings, limit=edits)
    ensemble = workspace.ensemble(plugin, setup.targets)
    result = workspace.evaluate(ensemble, workspace.records(dataset, edits), "both")
    result["same_form"] = workspace.form_locality(ensemble, dataset, cell["others"])
    return result


def tables(setup: QualitySetup, results: Results) -> Sequence[Table]:
    """All scores; the goals beside the worse target; free generation beside teacher forcing."""
    rows = [
        [
            name,
            score["target"],
            score["mode"],
            *numbers,
            score["contradicting"],
            *((score.get("consistent") or {}).get("after", {}).get(m) for m in ("rel", "gen")),
        ]
        for name, result in results.items()
        for score, numbers in _scored(result)
    ]
    goals = []
    for name, result in results.items():
        forced = [n for score, n in _scored(result) if score["mode"] == "teacher-forced"]
        if name in GOALS:
            goals.append([name, "goal", *GOALS[name]])
        goals.append([name, "worse target", *map(min, zip(*forced, strict=True))])
        goals.append([name, "paper, 1,000 edits", None, None, None, PAPER.get(name.split()[0])])
    columns = ("edits", "target", "mode", *HEADINGS, "contradicting", "Rel", "Gen")
    return [
        Table(
            "scores",
            "Scores with the default rule. The last two columns leave out edits that contradict "
            "another one.",
            columns,
            rows,
        ),
        Table(
            "goals",
            "The goals for every target, teacher-forced, beside the worse target here.",
            ("edits", "", *HEADINGS),
            goals,
        ),
        Table(
            "free",
            "Free generation as a share of teacher forcing: the lowest over Rel, Gen and targets.",
            ("edits", "all edits", "without contradicting edits"),
            [[name, *_shares(result["scores"])] for name, result in results.items()],
        ),
    ]


def _scored(result: Result) -> Iterator[tuple[Mapping[str, Any], list[float]]]:
    """Each entry of the scores with its four numbers; Loc is the lower of the two measured."""
    targets = [s["target"] for s in result["scores"] if s["mode"] == "teacher-forced"]
    forms = dict(zip(targets, result["same_form"], strict=True))
    for score in result["scores"]:
        rel, gen, loc, average = (score["after"][metric] for metric in METRICS)
        if score["mode"] == "teacher-forced":
            form = forms[score["target"]]
            loc = loc if form is None else min(loc, form)
            average = (rel + gen + loc) / 3
        yield score, [rel, gen, loc, average]


def _shares(scores: Sequence[Mapping[str, Any]]) -> tuple[float, float | None]:
    """Free generation by teacher forcing, for all edits and for those that do not contradict."""
    everything = _lowest_share(scores, [score["after"] for score in scores])
    if any(score["contradicting"] in (0, score["records"]) for score in scores):
        return everything, None
    return everything, _lowest_share(scores, [score["consistent"]["after"] for score in scores])


def _lowest_share(
    scores: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[str, float]]
) -> float:
    forced, free = (
        [n for n, score in zip(numbers, scores, strict=True) if score["mode"] == mode]
        for mode in ("teacher-forced", "generate")
    )
    return min(
        after[metric] / max(before[metric], 1e-9)
        for before, after in zip(forced, free, strict=True)
        for metric in ("rel", "gen")
    )


EXPERIMENT = Experiment(TITLE, QUESTION, QualitySetup, cells, run, tables)
