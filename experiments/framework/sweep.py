"""Experiments that change one thing about an edit, and score what comes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from experiments.framework.definition import OPEN, Cell, Figure, Page, Result, Setup, Table
from experiments.framework.workspace import Lab
from onceedit_jax.evaluation.protocol import plugin_alone
from onceedit_jax.gates.weight_token import GateKind

METRICS = ("rel", "gen", "loc", "avg", "same form")
Lowest = Callable[[str, GateKind], Mapping[str, float]]  # of a cell and gate: the worse target's


@dataclass(frozen=True)
class SweepSetup(Setup):
    """What all of them can be told.

    Attributes:
      dataset: whose edits.
      others: unedited questions in the edits' own form, for a stricter locality.
      gates: kinds of gate to score with.
    """

    dataset: str = "zsre"
    others: int = 100
    gates: Sequence[GateKind] = ("both", "token")


def sweep_cells(
    setup: SweepSetup, changes: Mapping[str, Mapping[str, Any]], **shared: Any
) -> dict[str, Cell]:
    """A cell for each change; `shared` is what all their descriptions say too."""
    common = {
        "dataset": setup.dataset,
        "others": setup.others,
        "gates": list(setup.gates),
        **shared,
    }
    return {name: {**common, **change} for name, change in changes.items()}


def measure(lab: Lab, setup: SweepSetup, cell: Cell) -> Result:
    """Edit as the cell says, and score every target by every kind of gate.

    A cell may have `editing` (settings), `edits` (their number) and `plugin` (the base model).
    """
    dataset, edits = cell["dataset"], cell.get("edits")
    settings = lab.settings(cell.get("editing", {}))
    plugin = lab.plugin(dataset, settings, limit=edits, spec=cell.get("plugin"))
    records = lab.records(dataset, edits)
    scores: dict[str, list[dict[str, Any]]] = {}
    for gate in cell["gates"]:
        ensemble = lab.ensemble(plugin, setup.targets, fusion=lab.rule("draft", gate=gate))
        found = lab.evaluate(ensemble, records)["scores"]
        forms = lab.form_locality(ensemble, dataset, cell["others"])
        scores[gate] = [
            {"target": score["target"], **score["after"], "same form": form}
            for score, form in zip(found, forms, strict=True)
        ]
    kept = [plugin.params, plugin.gate, plugin.memory, plugin.base_embeddings]
    return {
        "scores": scores,
        "alone": plugin_alone(plugin, records).as_dict(),
        "seconds": plugin.editing_seconds,
        "megabytes": sum(leaf.nbytes for leaf in jax.tree.leaves(kept)) / 1e6,
    }


def sweep_page(
    label: str,
    results: Mapping[str, Result],
    verdict: Callable[[Lowest], str],
    claim: Callable[[Lowest], str] = lambda lowest: OPEN,
) -> Page:
    """Scores by cell, gate and target, what editing took, and a panel a gate.

    Args:
      label: what the cells' names say.
      results: of `measure`.
      verdict: what came out, in words.
      claim: whether the paper's claim holds, in words.
    """
    gates: list[GateKind] = list(next(iter(results.values()))["scores"])

    def lowest(name: str, gate: GateKind) -> dict[str, float]:
        found = results[name]["scores"][gate]
        return {
            metric: min(score[metric] for score in found)
            for metric in METRICS
            if all(score.get(metric) is not None for score in found)
        }

    def draw(figure: Any) -> None:
        for axes, gate in zip(
            figure.subplots(1, len(gates), sharey=True, squeeze=False)[0], gates, strict=True
        ):
            for metric in METRICS:
                values = [lowest(name, gate).get(metric) for name in results]
                if None not in values:
                    axes.plot(list(results), values, marker="o", label=metric)
            axes.set(title=f"gate {gate}", xlabel=label, ylim=(0, 1.05))
            axes.tick_params(axis="x", rotation=90 if len(results) > 6 else 0)
        axes.legend()

    rows = [
        [name, gate, score["target"], *(score.get(metric) for metric in METRICS)]
        for name, result in results.items()
        for gate in gates
        for score in result["scores"][gate]
    ]
    costs = [
        [
            name,
            result["alone"]["rel"],
            result["alone"]["gen"],
            result["seconds"],
            result["megabytes"],
        ]
        for name, result in results.items()
    ]
    return Page(
        verdict(lowest),
        claim(lowest),
        [
            Table(
                "Scores after editing (same form: locality on unedited questions in the edits' "
                "form)",
                (label, "gate", "target", "Rel", "Gen", "Loc", "Avg", "same form"),
                rows,
            ),
            Table(
                "The plug-in by itself, seconds of editing, and megabytes of the artifact's arrays",
                (label, "Rel", "Gen", "seconds", "megabytes"),
                costs,
            ),
        ],
        [Figure("scores", f"The worse target's scores, by {label} and gate.", draw)],
    )


def averages(names: Sequence[str], lowest: Lowest, gate: GateKind) -> str:
    """The worse target's Avg of each cell, in words."""
    return ", ".join(f"{name} {lowest(name, gate)['avg']:.3f}" for name in names)


def best(names: Sequence[str], lowest: Lowest, gate: GateKind) -> str:
    """The cell whose worse target has the highest Avg."""
    return max(names, key=lambda name: lowest(name, gate)["avg"])
