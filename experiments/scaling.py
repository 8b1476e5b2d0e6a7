"""From ten edits to a thousand: quality, time and size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.framework.definition import Cell, Experiment, Page, Result, judged
from experiments.framework.sweep import (
    Lowest,
    SweepSetup,
    averages,
    measure,
    sweep_cells,
    sweep_page,
)


@dataclass(frozen=True)
class ScalingSetup(SweepSetup):
    """`sizes`: numbers of edits; `limit` caps them."""

    dataset: str = "counterfact"
    sizes: Sequence[int] = (10, 30, 100, 300, 1000)


def cells(setup: ScalingSetup) -> Mapping[str, Cell]:
    """One a size."""
    sizes = dict.fromkeys(min(size, setup.limit) for size in setup.sizes)
    return sweep_cells(setup, {str(size): {"edits": size} for size in sizes})


def page(setup: ScalingSetup, results: Mapping[str, Result]) -> Page:
    """Avg and seconds an edit, by size."""
    names = list(results)

    def verdict(lowest: Lowest) -> str:
        told = [
            f"`{gate}`, Avg of the worse target by edits: {averages(names, lowest, gate)}."
            for gate in setup.gates
        ]
        each = ", ".join(f"{n}: {results[n]['seconds'] / int(n):.1f}" for n in names)
        sizes = [results[name]["megabytes"] for name in names]
        return " ".join(
            [
                *told,
                f"Seconds of editing an edit: {each}. The artifact takes {sizes[0]:.1f} MB with "
                f"{names[0]} edits and {sizes[-1]:.1f} MB with {names[-1]}.",
            ]
        )

    def claim(lowest: Lowest) -> str:
        rel = {name: lowest(name, setup.gates[0])["rel"] for name in names}
        return judged(
            "a thousand facts can be edited at once",
            rel[names[-1]] >= 0.95 if int(names[-1]) >= 1000 else None,
            f"Rel of the worse target is {rel[names[-1]]:.3f} with {names[-1]} edits",
        )

    return sweep_page("edits", results, verdict, claim)


EXPERIMENT = Experiment(
    title="Number of edits",
    expected=(
        "The paper edits 1,000 facts at once and shows no other number. A thousand one-word facts "
        "fit into 135 million parameters many times over, so Rel should hold; editing time should "
        "grow in proportion, the artifact hardly: beside the parameters it holds a key an edit. "
        "All sizes have the settings of a thousand edits, which train ten for a dozen steps."
    ),
    setup=ScalingSetup,
    cells=cells,
    run=measure,
    page=page,
)
