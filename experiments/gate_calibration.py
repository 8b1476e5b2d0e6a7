"""Does alpha know its facts? On edits, their rephrases and unrelated questions, by kind of gate."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.framework.definition import (
    Cell,
    Experiment,
    Figure,
    Page,
    Result,
    Setup,
    Table,
    judged,
)
from experiments.framework.workspace import Lab

KINDS = ("token", "memory", "both")
RELATED = ("edits", "rephrases")
HIGH, LOW = 0.7, 0.3
PROMPTS = {
    "edits": "edits",
    "rephrases": "rephrases",
    "unrelated": "unrelated prompts",
    "same form": "unedited questions in the edits' form, which the paper does not test",
}


@dataclass(frozen=True)
class GateSetup(Setup):
    """`dataset`: whose edits; `others`: unedited questions in the edits' own form."""

    dataset: str = "zsre"
    others: int = 50


def cells(setup: GateSetup) -> Mapping[str, Cell]:
    """One: alphas cost little once a plug-in is edited."""
    return {"alphas": {"dataset": setup.dataset, "others": setup.others}}


def run(lab: Lab, setup: GateSetup, cell: Cell) -> Result:
    """Alpha of every prompt, by every kind of gate."""
    records = lab.records(setup.dataset)
    plugin = lab.plugin(setup.dataset, lab.settings())
    groups = {
        "edits": [record.prompt for record in records],
        "rephrases": [record.rephrase for record in records if record.rephrase],
        "unrelated": [pair.prompt for record in records for pair in record.locality],
        "same form": [pair.prompt for pair in lab.same_form(setup.dataset, setup.others)],
    }
    groups = {name: prompts for name, prompts in groups.items() if prompts}
    return {
        kind: {name: plugin.alphas(prompts, kind).tolist() for name, prompts in groups.items()}
        for kind in KINDS
    } | {"thresholds": {kind: plugin.alpha_threshold(kind) for kind in KINDS}}


def page(setup: GateSetup, results: Mapping[str, Result]) -> Page:
    """Means, shares past the marks, the area under the ROC, and the three pictures."""
    found = results["alphas"]
    rows = []
    for kind in KINDS:
        for name, alphas in found[kind].items():
            mark = np.mean(np.array(alphas) > HIGH), np.mean(np.array(alphas) < LOW)
            rows.append([kind, name, len(alphas), float(np.mean(alphas)), *map(float, mark)])
    areas = {kind: area(*split(found[kind])) for kind in KINDS}
    worst = {
        kind: (
            min(float(np.mean(found[kind][name])) for name in RELATED),
            max(float(np.mean(found[kind][n])) for n in found[kind] if n not in RELATED),
        )
        for kind in KINDS
    }
    token = {name: float(np.mean(alphas)) for name, alphas in found["token"].items()}
    verdicts = [
        f"`{kind}`: lowest mean {high:.3f} on edits and rephrases, highest mean {low:.3f} on the "
        f"rest, area under the ROC {areas[kind]:.3f}; the goal (above {HIGH} and under {LOW}) is "
        f"{'reached' if high > HIGH and low < LOW else 'not reached'}."
        for kind, (high, low) in worst.items()
    ]
    return Page(
        " ".join(verdicts),
        judged(
            "alpha, read from one trained token, tells edits and their rephrases from the data "
            "set's unrelated prompts",
            worst["token"][0] > HIGH and token["unrelated"] < LOW if "unrelated" in token else None,
            "mean alpha of the `token` gate is "
            + ", ".join(f"{mean:.2f} on {PROMPTS[name]}" for name, mean in token.items())
            + f" (with the scope memory {worst['both'][1]:.2f} at the most where no edit is asked)",
        ),
        [
            Table(
                "Alpha by gate and prompt",
                ("gate", "prompts", "number", "mean", f"share > {HIGH}", f"share < {LOW}"),
                rows,
            )
        ],
        [
            Figure("alphas", "Alpha by gate and kind of prompt.", lambda f: histograms(f, found)),
            Figure("roc", "Edits and rephrases against the rest.", lambda f: curves(f, found)),
            Figure(
                "calibration",
                "How many prompts of each alpha do concern an edit.",
                lambda f: reliability(f, found),
            ),
        ],
    )


def split(alphas: Mapping[str, list[float]]) -> tuple[Any, Any]:
    """Alphas of prompts that concern an edit, and of the others."""
    related = [a for name in RELATED for a in alphas[name]]
    return np.array(related), np.array([a for n in alphas if n not in RELATED for a in alphas[n]])


def area(related: Any, others: Any) -> float:
    """Chance that a related prompt has the higher alpha, ties counted half."""
    return float(np.mean(related[:, None] > others) + 0.5 * np.mean(related[:, None] == others))


def histograms(figure: Any, found: Result) -> None:
    """Four histograms a gate."""
    for axes, kind in zip(figure.subplots(1, len(KINDS), sharey=True), KINDS, strict=True):
        axes.hist(list(found[kind].values()), bins=np.linspace(0, 1, 11), label=list(found[kind]))
        axes.set(title=kind, xlabel="alpha")
    axes.legend()


def curves(figure: Any, found: Result) -> None:
    """One ROC a gate."""
    axes = figure.subplots()
    for kind in KINDS:
        related, others = split(found[kind])
        marks = np.concatenate([[np.inf], np.unique([*related, *others])[::-1]])
        axes.step(
            [np.mean(others >= mark) for mark in marks],
            [np.mean(related >= mark) for mark in marks],
            where="post",
            label=f"{kind} ({area(related, others):.3f})",
        )
    axes.set(xlabel="other prompts taken for edits", ylabel="edits and rephrases found")
    axes.legend()


def reliability(figure: Any, found: Result) -> None:
    """Share of related prompts in each fifth of alpha."""
    axes, edges = figure.subplots(), np.linspace(0, 1, 6)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    for kind in KINDS:
        related, others = (np.histogram(part, edges)[0] for part in split(found[kind]))
        there = related + others > 0
        axes.plot(
            ((edges[1:] + edges[:-1]) / 2)[there],
            (related / np.maximum(related + others, 1))[there],
            marker="o",
            label=kind,
        )
    axes.set(xlabel="alpha", ylabel="share that concerns an edit")
    axes.legend()


EXPERIMENT = Experiment(
    title="Gate calibration",
    expected=(
        "The paper reads alpha from one trained token and reports locality near 1 with it. A gate "
        "that knows its facts gives edits and rephrases alpha above .7 and all other prompts alpha "
        "under .3, unedited questions in the edits' own form included."
    ),
    setup=GateSetup,
    cells=cells,
    run=run,
    page=page,
)
