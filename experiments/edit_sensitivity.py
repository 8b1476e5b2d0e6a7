"""Settings of an edit that the paper leaves open: batch, epochs, optimizer, trained parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.framework.sweep import SweepSetup, sweep


@dataclass(frozen=True)
class SensitivitySetup(SweepSetup):
    """`changes`: by name, the settings that one cell changes."""

    changes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def changes(setup: SensitivitySetup) -> Mapping[str, Mapping[str, Any]]:
    """One cell without a change, and one a change."""
    named = {"as configured": {}, **setup.changes}
    return {name: {"editing": dict(settings)} for name, settings in named.items()}


EXPERIMENT = sweep(
    "Settings of an edit",
    "Which settings of an edit matter: batch size, epochs, learning rate, optimizer, method?",
    SensitivitySetup,
    "change",
    changes,
)
