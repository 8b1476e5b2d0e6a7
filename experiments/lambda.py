"""How much of the objective shall be the gate's?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.framework.definition import Cell, Experiment, Page, Result
from experiments.framework.sweep import (
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
        taken = "It takes lambda = .8 and compares no other value."
        if "token" not in setup.gates or PAPER not in names or len(names) == 1:
            return f"{taken} It is not measured beside others with gate `token`."
        values = {name: lowest(name, "token")["avg"] for name in names}
        good = [name for name in names if values[name] >= values[PAPER] - NEARLY]
        forms = [(name, lowest(name, "token").get("same form")) for name in names]
        stricter = ", ".join(f"{form:.2f} at {name}" for name, form in forms if form is not None)
        return (
            f"{taken} By the learnt token alone Avg is {values[PAPER]:.3f} there, and no more than "
            f"{NEARLY} lower at {', '.join(good)}. Loc on unedited questions in the edits' form: "
            f"{stricter or 'not measured'}."
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
