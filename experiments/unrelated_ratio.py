"""The number of unrelated rows that the gate is trained with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.framework.sweep import SweepSetup, sweep


@dataclass(frozen=True)
class RatioSetup(SweepSetup):
    """`ratios`: unrelated rows an edit; there are twice as many swapped prompts."""

    ratios: Sequence[float] = (0.0, 0.5, 1.0, 2.0)


def changes(setup: RatioSetup) -> Mapping[str, Mapping[str, Any]]:
    """One cell a ratio."""
    return {
        f"{ratio:.0%}": {"editing": {"unrelated_ratio": ratio, "swapped_ratio": 2 * ratio}}
        for ratio in setup.ratios
    }


EXPERIMENT = sweep(
    "Unrelated rows",
    "How many unrelated rows does the gate need?",
    RatioSetup,
    "unrelated rows an edit",
    changes,
)
