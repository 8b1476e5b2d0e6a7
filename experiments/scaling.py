"""From ten edits to a thousand: quality, time and size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.framework import Results, Table
from experiments.framework.sweep import SweepSetup, sweep


@dataclass(frozen=True)
class ScalingSetup(SweepSetup):
    """`sizes`: numbers of edits, none above `limit`."""

    dataset: str = "counterfact"
    sizes: Sequence[int] = (10, 30, 100, 300, 1000)


def changes(setup: ScalingSetup) -> Mapping[str, Mapping[str, Any]]:
    """One cell a size."""
    sizes = dict.fromkeys(min(size, setup.limit) for size in setup.sizes)
    return {str(size): {"edits": size} for size in sizes}


def rates(setup: ScalingSetup, results: Results) -> Sequence[Table]:
    """Seconds of editing, divided by the number of edits."""
    rows = [[size, result["seconds"] / int(size)] for size, result in results.items()]
    return [Table("rate", "Seconds of editing for each edit.", ("edits", "seconds an edit"), rows)]


EXPERIMENT = sweep(
    "Number of edits",
    "How do quality, editing time and artifact size depend on the number of edits?",
    ScalingSetup,
    "edits",
    changes,
    rates,
)
