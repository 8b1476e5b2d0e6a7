"""The size of the plug-in: each of two models as the plug-in for both targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.framework.definition import PLUGIN, TARGETS, short
from experiments.framework.sweep import SweepSetup, sweep


@dataclass(frozen=True)
class SizeSetup(SweepSetup):
    """`plugins`: models to edit, the smallest first."""

    plugins: Sequence[str] = (PLUGIN, TARGETS[0])


def changes(setup: SizeSetup) -> Mapping[str, Mapping[str, Any]]:
    """One cell a plug-in."""
    return {short(spec): {"plugin": spec} for spec in setup.plugins}


EXPERIMENT = sweep(
    "The size of the plug-in",
    "Does a larger plug-in give better scores?",
    SizeSetup,
    "plug-in",
    changes,
)
