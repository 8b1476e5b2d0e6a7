"""How many unrelated rows does the gate need?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onceedit_jax.experiment.definition import Cell, Experiment, Figure, Page, Result, Setup, Table
from onceedit_jax.experiment.lab import Lab

METRICS = ("rel", "gen", "loc")
GATES = ("both", "token")


@dataclass(frozen=True)
class RatioSetup(Setup):
    """`ratios`: unrelated rows an edit; `others`: unedited questions of the edits' form."""

    dataset: str = "zsre"
    ratios: Sequence[float] = (0.0, 0.5, 1.0, 2.0)
    others: int = 100


def cells(setup: RatioSetup) -> Mapping[str, Cell]:
    """One a ratio."""
    shared = {"dataset": setup.dataset, "others": setup.others}
    return {f"{ratio:.0%}": {**shared, "ratio": ratio} for ratio in setup.ratios}


def run(lab: Lab, setup: RatioSetup, cell: Cell) -> Result:
    """Edit with so many unrelated rows, of both kinds, and score with both gates."""
    ratio = cell["ratio"]
    settings = lab.settings({"unrelated_ratio": ratio, "swapped_ratio": 2 * ratio})
    plugin = lab.plugin(setup.dataset, settings)
    found: dict[str, Any] = {}
    for gate in GATES:
        ensemble = lab.ensemble(plugin, setup.targets, fusion=lab.rule("draft", gate=gate))
        scores = lab.evaluate(ensemble, lab.records(setup.dataset))["scores"]
        same_form = lab.locality(ensemble, lab.same_form(setup.dataset, setup.others))
        found[gate] = [
            {"target": s["target"], **s["after"], "same form": form}
            for s, form in zip(scores, same_form, strict=True)
        ]
    return found


def page(setup: RatioSetup, results: Mapping[str, Result]) -> Page:
    """Scores by ratio and gate."""
    rows = [
        [name, gate, score["target"], *(score[m] for m in (*METRICS, "same form"))]
        for name, result in results.items()
        for gate in GATES
        for score in result[gate]
    ]
    first, *_, last = [*results.values()] * 2

    def told(result: Result, gate: str) -> str:
        values = [min(score[m] for score in result[gate]) for m in (*METRICS, "same form")]
        return "Rel {:.3f}, Gen {:.3f}, Loc {:.3f}, same form {:.3f}".format(*values)

    names = list(results)
    outcome = " ".join(
        f"`{gate}`, the worse target: {told(first, gate)} at {names[0]}, {told(last, gate)} at "
        f"{names[-1]}."
        for gate in GATES
    )

    def draw(figure: Any) -> None:
        for axes, gate in zip(figure.subplots(1, 2, sharey=True), GATES, strict=True):
            for metric in (*METRICS, "same form"):
                axes.plot(
                    list(setup.ratios)[: len(results)],
                    [min(score[metric] for score in r[gate]) for r in results.values()],
                    marker="o",
                    label=metric,
                )
            axes.set(title=f"gate {gate}", xlabel="unrelated rows an edit", ylim=(0, 1.05))
        axes.legend()

    return Page(
        outcome,
        [
            Table(
                "Scores by unrelated rows an edit (swapped prompts are twice as many)",
                ("unrelated", "gate", "target", "Rel", "Gen", "Loc", "same form"),
                rows,
            )
        ],
        [Figure("scores", "The worse target's scores by unrelated rows an edit.", draw)],
    )


EXPERIMENT = Experiment(
    title="Unrelated rows",
    expected=(
        "The paper trains [WEIGHT] against unrelated inputs and does not say how many. Without any "
        "the gate has nothing to close on: Loc should fall to what the target's own words leave, "
        "and rise with their number, at no cost for Rel."
    ),
    setup=RatioSetup,
    cells=cells,
    run=run,
    page=page,
)
