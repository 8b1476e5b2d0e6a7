"""Alpha on edits, their rephrases and unrelated questions, by kind of gate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.framework import Cell, Experiment, Figure, Result, Results, Setup, Table, Workspace
from experiments.framework.separation import area
from onceedit_jax.gates.registry import gate_by_name

TITLE = "Gate calibration"
QUESTION = "Is alpha high on edits and their rephrases, and low on everything else?"

KINDS = ("token", "memory", "both")
RELATED = ("edits", "rephrases")
HIGH, LOW = 0.7, 0.3
Alphas = Mapping[str, Sequence[float]]  # by kind of prompt
ByKind = Mapping[str, Alphas]


@dataclass(frozen=True)
class GateSetup(Setup):
    """`dataset`: whose edits; `others`: number of unedited questions in the edits' own form."""

    dataset: str = "zsre"
    others: int = 50


def cells(setup: GateSetup) -> Mapping[str, Cell]:
    """One: alphas cost little once a plug-in is edited."""
    return {"alphas": {"dataset": setup.dataset, "others": setup.others}}


def run(workspace: Workspace, setup: GateSetup, cell: Cell) -> Result:
    """Alpha of every prompt, by every kind of gate."""
    records = workspace.records(setup.dataset)
    plugin = workspace.plugin(setup.dataset, workspace.settings())
    groups = {
        "edits": [record.prompt for record in records],
        "rephrases": [record.rephrase for record in records if record.rephrase],
        "unrelated": [pair.prompt for record in records for pair in record.locality],
        "same form": [pair.prompt for pair in workspace.same_form(setup.dataset, setup.others)],
    }
    groups = {name: prompts for name, prompts in groups.items() if prompts}
    gates = {kind: plugin.fitted(gate_by_name(kind)) for kind in KINDS}
    return {
        kind: {name: plugin.alphas(prompts, gate).tolist() for name, prompts in groups.items()}
        for kind, gate in gates.items()
    } | {"thresholds": {kind: gate.threshold for kind, gate in gates.items()}}


def tables(setup: GateSetup, results: Results) -> Sequence[Table]:
    """Alpha by gate and kind of prompt, and how well each gate separates them."""
    by_kind = {kind: results["alphas"][kind] for kind in KINDS}
    rows = [
        [
            kind,
            name,
            len(alphas),
            float(np.mean(alphas)),
            float(np.mean(np.array(alphas) > HIGH)),
            float(np.mean(np.array(alphas) < LOW)),
        ]
        for kind, groups in by_kind.items()
        for name, alphas in groups.items()
    ]
    return [
        Table(
            "alphas",
            "Alpha by gate and kind of prompt. Same form: unedited questions in the edits' form.",
            ("gate", "prompts", "number", "mean", f"share > {HIGH}", f"share < {LOW}"),
            rows,
        ),
        Table(
            "separation",
            "Edits and rephrases against all other prompts.",
            ("gate", "lowest mean, edited", "highest mean, other", "area under the ROC"),
            [
                [kind, min(means[:2]), max(means[2:]), area(*split(groups))]
                for kind, groups in by_kind.items()
                for means in [[float(np.mean(groups[n])) for n in (*RELATED, *_others(groups))]]
            ],
        ),
    ]


def figures(setup: GateSetup, results: Results) -> Sequence[Figure]:
    """Histograms, ROC and calibration."""
    by_kind = {kind: results["alphas"][kind] for kind in KINDS}
    return [
        Figure("alphas", "Alpha by gate and kind of prompt.", lambda f: histograms(f, by_kind)),
        Figure("roc", "Edits and rephrases against the rest.", lambda f: curves(f, by_kind)),
        Figure(
            "calibration",
            "Share of the prompts that do concern an edit, by alpha.",
            lambda f: reliability(f, by_kind),
        ),
    ]


def _others(alphas: Alphas) -> list[str]:
    return [name for name in alphas if name not in RELATED]


def split(alphas: Alphas) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Alphas of prompts that concern an edit, and of the others."""
    related = [a for name in RELATED for a in alphas[name]]
    return np.array(related), np.array([a for name in _others(alphas) for a in alphas[name]])


def histograms(figure: Any, by_kind: ByKind) -> None:
    """A panel for each gate."""
    panels = figure.subplots(1, len(by_kind), sharey=True)
    for axes, (kind, groups) in zip(panels, by_kind.items(), strict=True):
        axes.hist(list(groups.values()), bins=np.linspace(0, 1, 11), label=list(groups))
        axes.set(title=kind, xlabel="alpha")
    panels[-1].legend()


def curves(figure: Any, by_kind: ByKind) -> None:
    """One ROC for each gate."""
    axes = figure.subplots()
    for kind, groups in by_kind.items():
        related, others = split(groups)
        marks = np.concatenate([[np.inf], np.unique([*related, *others])[::-1]])
        axes.step(
            [np.mean(others >= mark) for mark in marks],
            [np.mean(related >= mark) for mark in marks],
            where="post",
            label=f"{kind} ({area(related, others):.3f})",
        )
    axes.set(xlabel="other prompts taken for edits", ylabel="edits and rephrases recognised")
    axes.legend()


def reliability(figure: Any, by_kind: ByKind) -> None:
    """Share of related prompts in each fifth of alpha."""
    axes, edges = figure.subplots(), np.linspace(0, 1, 6)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    for kind, groups in by_kind.items():
        related, others = (np.histogram(part, edges)[0] for part in split(groups))
        there = related + others > 0
        axes.plot(
            ((edges[1:] + edges[:-1]) / 2)[there],
            (related / np.maximum(related + others, 1))[there],
            marker="o",
            label=kind,
        )
    axes.set(xlabel="alpha", ylabel="share that concerns an edit")
    axes.legend()


EXPERIMENT = Experiment(TITLE, QUESTION, GateSetup, cells, run, tables, figures)
