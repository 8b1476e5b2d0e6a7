"""Experiments that change one thing about an edit and score the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.framework.definition import (
    Cell,
    Experiment,
    Figure,
    Result,
    Results,
    Setup,
    Table,
)
from experiments.framework.scores import HEADINGS, METRICS
from experiments.framework.workspace import Workspace
from onceedit_jax.evaluation.protocol import plugin_alone

SWEPT = (*METRICS, "same form")


@dataclass(frozen=True)
class SweepSetup(Setup):
    """What all sweeps share.

    Attributes:
      dataset: whose edits.
      others: number of unedited questions in the edits' own form, for a stricter locality.
      gates: the gates to score with.
    """

    dataset: str = "zsre"
    others: int = 100
    gates: Sequence[str] = ("both", "token")


def sweep(
    title: str,
    question: str,
    setup: type[SweepSetup],
    label: str,
    changes: Callable[[Any], Mapping[str, Mapping[str, Any]]],
    more_tables: Callable[[Any, Results], Sequence[Table]] = lambda setup, results: (),
) -> Experiment:
    """An experiment with a cell for each change.

    Args:
      title: the page's title.
      question: what is asked.
      setup: the class of its configuration.
      label: what the names of the changes say, as a heading.
      changes: from the configuration to the change of each cell: `editing` (settings), `edits`
        (their number) or `plugin` (the base model).
      more_tables: tables beside those of all sweeps.
    """

    def tables(setup: SweepSetup, results: Results) -> Sequence[Table]:
        return [*_tables(label, results), *more_tables(setup, results)]

    def figures(setup: SweepSetup, results: Results) -> Sequence[Figure]:
        caption = f"Scores of the worse target, by {label} and gate."
        return [Figure("scores", caption, lambda figure: _draw(figure, label, results))]

    return Experiment(
        title,
        question,
        setup,
        lambda setup: sweep_cells(setup, changes(setup)),
        measure,
        tables,
        figures,
    )


def sweep_cells(setup: SweepSetup, changes: Mapping[str, Mapping[str, Any]]) -> dict[str, Cell]:
    """A cell for each change."""
    common = {"dataset": setup.dataset, "others": setup.others, "gates": list(setup.gates)}
    return {name: {**common, **change} for name, change in changes.items()}


def measure(workspace: Workspace, setup: SweepSetup, cell: Cell) -> Result:
    """Edit as the cell says, and score every target with every gate."""
    dataset, edits = cell["dataset"], cell.get("edits")
    settings = workspace.settings(cell.get("editing", {}))
    plugin = workspace.plugin(dataset, settings, limit=edits, spec=cell.get("plugin"))
    records = workspace.records(dataset, edits)
    scores: dict[str, list[dict[str, Any]]] = {}
    for gate in cell["gates"]:
        ensemble = workspace.ensemble(plugin, setup.targets, {"preset": "draft", "gate": gate})
        by_target = workspace.evaluate(ensemble, records)["scores"]
        forms = workspace.form_locality(ensemble, dataset, cell["others"])
        scores[gate] = [
            {"target": score["target"], **score["after"], "same form": form}
            for score, form in zip(by_target, forms, strict=True)
        ]
    arrays = [plugin.params, plugin.gate, plugin.memory, plugin.base_embeddings]
    return {
        "scores": scores,
        "alone": plugin_alone(plugin, records).as_dict(),
        "seconds": plugin.editing_seconds,
        "megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) / 1e6,
    }


def lowest(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Each metric's lowest value over the targets, for those metrics that all of them have."""
    return {
        metric: min(score[metric] for score in scores)
        for metric in SWEPT
        if all(score.get(metric) is not None for score in scores)
    }


def _tables(label: str, results: Results) -> list[Table]:
    """Scores by cell, gate and target; and the plug-in by itself, with what editing cost."""
    rows = [
        [name, gate, score["target"], *(score.get(metric) for metric in SWEPT)]
        for name, result in results.items()
        for gate, scores in result["scores"].items()
        for score in scores
    ]
    costs = [
        [name, r["alone"]["rel"], r["alone"]["gen"], r["seconds"], r["megabytes"]]
        for name, r in results.items()
    ]
    return [
        Table(
            "scores",
            "Scores after editing. Same form: locality on unedited questions in the edits' form.",
            (label, "gate", "target", *HEADINGS, "same form"),
            rows,
        ),
        Table(
            "plugin",
            "The plug-in by itself, seconds of editing, and megabytes of the artifact's arrays.",
            (label, "Rel", "Gen", "seconds", "megabytes"),
            costs,
        ),
    ]


def _draw(figure: Any, label: str, results: Results) -> None:
    """A panel for each gate, a line for each metric."""
    gates = list(next(iter(results.values()))["scores"])
    panels = figure.subplots(1, len(gates), sharey=True, squeeze=False)[0]
    for axes, gate in zip(panels, gates, strict=True):
        worse = [lowest(result["scores"][gate]) for result in results.values()]
        for metric in SWEPT:
            if all(metric in scores for scores in worse):
                values = [scores[metric] for scores in worse]
                axes.plot(list(results), values, marker="o", label=metric)
        axes.set(title=f"gate {gate}", xlabel=label, ylim=(0, 1.05))
        axes.tick_params(axis="x", rotation=90 if len(results) > 6 else 0)
    panels[-1].legend()
