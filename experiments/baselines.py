"""Editing every target by itself, beside one edit of the plug-in that serves them all."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax

from experiments.framework import Cell, Experiment, Figure, Result, Results, Table, Workspace
from experiments.framework.definition import short
from experiments.framework.methods import MethodsSetup, edit_target, method_cells
from experiments.framework.scores import HEADINGS, mean_score, score_rows
from onceedit_jax.evaluation.single_model import score
from onceedit_jax.models.parameters import init_params

TITLE = "Baselines that edit each target by itself"
QUESTION = (
    "How good is one edit of the plug-in beside editing every target, and how long does each take?"
)

DATASET = "zsre"
ONCE = "once edit"
BARE = "once edit (prompts alone)"  # trained as full and lora are, without paraphrases
PAPER = "once edit (the paper's)"  # the same plug-in, fused by the paper's rule
THIRD = "random weights"  # only the time of editing it is measured; it may never learn its edits
ONE_EDIT = (ONCE, BARE, PAPER)  # one plug-in for all targets
# Editing time for three targets in the paper, ONCE EDIT's being 1.
PUBLISHED = {ONCE: 1.0, "ft-l": 2.13, "wise": 3.94}


@dataclass(frozen=True)
class BaselinesSetup(MethodsSetup):
    """What is compared.

    Attributes:
      third: a model whose shape a further target has, with random weights: only the time of
        editing it is measured.
      bare: settings of the plug-in's edit without other wordings.
    """

    third: str | None = None
    bare: Mapping[str, Any] | None = None


def cells(setup: BaselinesSetup) -> Mapping[str, Cell]:
    """One cell a method and target, and the plug-in's, which serves all of them."""
    found: dict[str, Cell] = {ONCE: {"method": ONCE, "dataset": DATASET}}
    if setup.bare is not None:
        bare = {"method": ONCE, "dataset": DATASET, "editing": dict(setup.bare)}
        found[BARE] = bare
        found[PAPER] = {**bare, "rule": {"preset": "relative", "alpha_threshold": 0.0}}
    places: list[tuple[str, str, dict[str, Any]]] = [(s, short(s), {}) for s in setup.targets]
    places += [(setup.third, THIRD, {"untrained": True})] if setup.third else []
    for spec, place, state in places:
        for method, cell in method_cells(setup, spec).items():
            found[f"{method}, {place}"] = {**cell, "dataset": DATASET, **state}
    return found


def run(workspace: Workspace, setup: BaselinesSetup, cell: Cell) -> Result:
    """Edit, and score before and after."""
    records, method = workspace.records(DATASET), cell["method"]
    if method == ONCE:
        plugin = workspace.plugin(DATASET, workspace.settings(cell.get("editing", {})))
        rule = cell.get("rule", {"preset": "draft"})
        result = workspace.evaluate(workspace.ensemble(plugin, setup.targets, rule), records)
        return {**result, "seconds": plugin.editing_seconds, "preparation": 0.0}
    target = workspace.target(cell["target"])
    untrained = cell.get("untrained", False)
    if untrained:  # a model of the same shape that knows nothing
        params = init_params(target.model.config, jax.random.key(setup.seed))
        target = replace(target, model=replace(target.model, params=params))
    jax.clear_caches()  # so that every method's time includes its own compilation
    unrelated = [row.prompt for row in workspace.unrelated(DATASET)]
    edited, editor = edit_target(workspace, cell, target, records, unrelated)
    scores = [] if untrained else [score(target, records, edited.result, read=editor.read)]
    return {"scores": scores, "seconds": edited.seconds, "preparation": edited.preparation}


def tables(setup: BaselinesSetup, results: Results) -> Sequence[Table]:
    """Averages over targets, time by the number of targets, and every target's scores."""
    names = _targets(setup)
    times = seconds_by_targets(setup, results)
    once = times[ONCE][0] if ONCE in times else None
    counts = range(1, len(names) + 1)

    def ratios(seconds: Sequence[float]) -> list[float | None]:
        return [value / once if once else None for value in seconds]

    def padded(values: Sequence[float | None]) -> list[float | None]:
        return [*values, *[None] * (len(names) - len(values))]

    return [
        Table(
            "averages",
            "Means over the targets after editing, teacher-forced.",
            ("method", *HEADINGS),
            [
                [method, *(mean_score(scores, metric) for metric in ("rel", "gen", "loc", "avg"))]
                for method in times
                if len(scores := _scores(method, results)) == len(setup.targets)
            ],
        ),
        Table(
            "time",
            f"Seconds of editing one target after another ({', then '.join(names)}), and the same "
            "in units of one default edit of the plug-in.",
            (
                "method",
                *(f"{count} target{'s' * (count > 1)}, s" for count in counts),
                *(f"{count}, ratio" for count in counts),
                "published, 3",
            ),
            [
                [method, *padded(total), *padded(ratios(total)), PUBLISHED.get(method)]
                for method, total in times.items()
            ],
        ),
        Table(
            "scores",
            "Scores of every target, seconds of editing, and seconds of what is prepared once for "
            "a target (second moments of keys).",
            ("method", "target", *HEADINGS, "editing", "preparation"),
            [
                [*row, result["seconds"], result["preparation"]]
                for name, result in results.items()
                for row in score_rows([name.split(",")[0]], result["scores"])
            ],
        ),
    ]


def figures(setup: BaselinesSetup, results: Results) -> Sequence[Figure]:
    """Seconds by the number of targets."""

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        counts = range(1, len(_targets(setup)) + 1)
        for method, total in seconds_by_targets(setup, results).items():
            style = {"linestyle": "--"} if method in ONE_EDIT else {"marker": "o"}
            axes.plot(counts[: len(total)], total, label=method, **style)
        axes.set(xlabel="targets", ylabel="seconds of editing", xticks=counts, yscale="log")
        axes.legend()

    return [Figure("time", "Seconds of editing by the number of targets.", draw)]


def seconds_by_targets(setup: BaselinesSetup, results: Results) -> dict[str, list[float]]:
    """For each method the seconds of the first target, the first two and so on, as measured."""
    names = _targets(setup)
    times: dict[str, list[float]] = {
        method: [results[method]["seconds"]] * len(names)
        for method in ONE_EDIT
        if method in results
    }
    for method in setup.methods:
        measured = itertools.takewhile(results.__contains__, (f"{method}, {n}" for n in names))
        times[method] = list(itertools.accumulate(results[cell]["seconds"] for cell in measured))
    return {method: total for method, total in times.items() if total}


def _targets(setup: BaselinesSetup) -> list[str]:
    return [short(spec) for spec in setup.targets] + ([THIRD] if setup.third else [])


def _scores(method: str, results: Results) -> list[Any]:
    """The scores of all targets by a method."""
    return [s for name, r in results.items() if name.split(",")[0] == method for s in r["scores"]]


EXPERIMENT = Experiment(TITLE, QUESTION, BaselinesSetup, cells, run, tables, figures)
