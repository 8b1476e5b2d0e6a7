"""The weight of the gate's loss in the editing objective (the paper's lambda, section 3.2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.framework.sweep import SweepSetup, sweep


@dataclass(frozen=True)
class GateWeightSetup(SweepSetup):
    """`values`: of lambda."""

    values: Sequence[float] = (0.1, 0.4, 0.8, 1.2, 2.0)


def changes(setup: GateWeightSetup) -> Mapping[str, Mapping[str, Any]]:
    """One cell a value."""
    return {f"{value:g}": {"editing": {"gate_weight": value}} for value in setup.values}


EXPERIMENT = sweep(
    "The weight of the gate loss",
    "How does the weight of the gate loss (lambda) affect quality?",
    GateWeightSetup,
    "lambda",
    changes,
)
