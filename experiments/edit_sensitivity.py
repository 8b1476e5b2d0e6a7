"""What does an edit depend on that the paper leaves out: batch, epochs, optimizer, method?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.framework.definition import Cell, Experiment, Page, Result
from experiments.framework.sweep import (
    Lowest,
    SweepSetup,
    averages,
    measure,
    sweep_cells,
    sweep_page,
)

DEFAULTS = "as configured"


@dataclass(frozen=True)
class SensitivitySetup(SweepSetup):
    """`changes`: by name, settings of the editing stage that one cell changes."""

    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def cells(setup: SensitivitySetup) -> Mapping[str, Cell]:
    """One without a change, and one a change."""
    changes = {DEFAULTS: {}, **setup.changes}
    return sweep_cells(setup, {name: {"editing": dict(c)} for name, c in changes.items()})


def page(setup: SensitivitySetup, results: Mapping[str, Result]) -> Page:
    """Which changes cost more than a hundredth of Avg."""
    names = list(results)

    def verdict(lowest: Lowest) -> str:
        told = []
        for gate in setup.gates:
            usual = lowest(names[0], gate)["avg"]
            worse = [n for n in names if lowest(n, gate)["avg"] < usual - 0.01]
            better = [n for n in names if lowest(n, gate)["avg"] > usual + 0.01]
            told.append(
                f"`{gate}`, Avg of the worse target {usual:.3f} {names[0]}; over .01 worse: "
                f"{averages(worse, lowest, gate) or 'none'}; over .01 better: "
                f"{averages(better, lowest, gate) or 'none'}."
            )
        return " ".join(told)

    return sweep_page("change", results, verdict)


EXPERIMENT = Experiment(
    title="What an edit depends on",
    expected=(
        "The paper gives the learning rate, 1e-4, and lambda; batch, epochs, optimizer and which "
        "parameters are trained it leaves out. Whatever learns the edits' own prompts should do "
        "for Rel; Gen and the gate should suffer first where training is too short or too coarse."
    ),
    setup=SensitivitySetup,
    cells=cells,
    run=measure,
    page=page,
)
