"""How much of the objective shall be the gate's?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onceedit_jax.experiment.definition import Cell, Experiment, Page, Result, judged
from onceedit_jax.experiment.sweep import (
    Lowest,
    SweepSetup,
    averages,
    best,
    measure,
    sweep_cells,
    sweep_page,
)

PAPER = "0.8"  # the cell of its value
NEARLY = 0.02


@dataclass(frozen=True)
class LambdaSetup(SweepSetup):
    """`values`: of lambda."""

    values: Sequence[float] = (0.1, 0.4, 0.8, 1.2, 2.0)


def cells(setup: LambdaSetup) -> Mapping[str, Cell]:
    """One a value."""
    changes = {f"{value:g}": {"editing": {"gate_weight": value}} for value in setup.values}
    return sweep_cells(setup, changes)


def page(setup: LambdaSetup, results: Mapping[str, Result]) -> Page:
    """Avg by lambda, and how far apart the best and the worst are."""
    names = list(results)

    def verdict(lowest: Lowest) -> str:
        told = []
        for gate in setup.gates:
            values = [lowest(name, gate)["avg"] for name in names]
            told.append(
                f"`{gate}`, Avg of the worse target by lambda: {averages(names, lowest, gate)}; "
                f"best at {best(names, lowest, gate)}, {max(values) - min(values):.3f} between "
                "best and worst."
            )
        return " ".join(told)

    def claim(lowest: Lowest) -> str:
        claim = f"lambda = .8 is a good choice (Avg within {NEARLY} of the best)"
        if "token" not in setup.gates or PAPER not in names or len(names) == 1:
            return judged(claim, None, "it is not measured beside others with gate `token`")
        values = {name: lowest(name, "token")["avg"] for name in names}
        return judged(
            claim,
            values[PAPER] >= max(values.values()) - NEARLY,
            f"by the learnt token alone the best Avg is {max(values.values()):.3f}, "
            f"{values[PAPER]:.3f} with .8",
        )

    return sweep_page("lambda", results, verdict, claim)


EXPERIMENT = Experiment(
    title="The weight of the gate's loss",
    expected=(
        "The paper takes lambda = .8 in L = L_gen + lambda * L_weight and shows no other value. "
        "The two terms share only the body of the model, and [WEIGHT]'s row has a learning rate of "
        "its own: we expect little to depend on it."
    ),
    setup=LambdaSetup,
    cells=cells,
    run=measure,
    page=page,
)
