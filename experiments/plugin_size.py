"""Does a larger plug-in serve better? Each of the targets as the plug-in of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.framework.definition import (
    PLUGIN,
    TARGETS,
    Cell,
    Experiment,
    Page,
    Result,
    judged,
    short,
)
from experiments.framework.sweep import (
    Lowest,
    SweepSetup,
    averages,
    measure,
    sweep_cells,
    sweep_page,
)

NEARLY = 0.02


@dataclass(frozen=True)
class SizeSetup(SweepSetup):
    """`plugins`: models to edit, the smallest first."""

    plugins: Sequence[str] = (PLUGIN, TARGETS[0])


def cells(setup: SizeSetup) -> Mapping[str, Cell]:
    """One a plug-in."""
    return sweep_cells(setup, {short(spec): {"plugin": spec} for spec in setup.plugins})


def page(setup: SizeSetup, results: Mapping[str, Result]) -> Page:
    """Avg and seconds by plug-in."""
    names = list(results)

    def verdict(lowest: Lowest) -> str:
        told = [
            f"`{gate}`, Avg of the worse target by plug-in: {averages(names, lowest, gate)}."
            for gate in setup.gates
        ]
        costs = ", ".join(
            f"{name} {results[name]['seconds']:.0f} s and {results[name]['megabytes']:.0f} MB"
            for name in names
        )
        return " ".join([*told, f"An edit takes {costs}."])

    def claim(lowest: Lowest) -> str:
        values = {name: lowest(name, setup.gates[0])["avg"] for name in names}
        return judged(
            f"a small plug-in is sufficient (Avg within {NEARLY} of the best)",
            values[names[0]] >= max(values.values()) - NEARLY if len(values) > 1 else None,
            f"with gate `{setup.gates[0]}` Avg of the worse target is "
            + ", ".join(f"{value:.3f} with {name}" for name, value in values.items()),
        )

    return sweep_page("plug-in", results, verdict, claim)


EXPERIMENT = Experiment(
    title="The size of the plug-in",
    expected=(
        "The paper compares plug-ins of 1.1 and 1.5 billion parameters and finds both sufficient. "
        "An edit is a few words that any of these models can learn, so a plug-in of 135 million "
        "should serve as well as one of 270 million, and cost half as much. "
        "Seconds are of one run."
    ),
    setup=SizeSetup,
    cells=cells,
    run=measure,
    page=page,
)
