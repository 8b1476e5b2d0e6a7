"""Refuses a fusion rule that does not fit a gate, or what is asked of it."""

from collections.abc import Iterable

from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.types import FusionRule, tells_always
from onceedit_jax.gates.types import FittedGate


def check_rule(rule: FusionRule, gate: FittedGate) -> None:
    """Refuse a rule that needs what a gate does not give."""
    if rule.unchecked and gate.trust_threshold is None:
        raise InputError(
            f"the rule {rule.name} trusts a draft where alpha is high, and the gate {gate.name} "
            "gives every prompt the same alpha; use another gate, or a rule that checks drafts"
        )
    if tells_always(rule) and gate.gate.means is None:
        raise InputError(
            f"the rule {rule.name} tells a target the edit that a prompt asks for, and the gate "
            f"{gate.name} does not know which one it is; use the gate fact"
        )


def check_draws(rules: Iterable[FusionRule], sampling: SamplingSettings) -> None:
    """Refuse to draw tokens by a rule that decides them by a search.

    Raises:
      InputError: tokens are drawn, and a rule reads both models' logits without a distribution.
    """
    for rule in rules:
        if sampling.draws and rule.reads == "logits" and rule.distribution is None:
            raise InputError(
                f"temperature={sampling.temperature:g}: the rule {rule.name} with these settings "
                "decides tokens by a search, and has no distribution to draw from; set "
                "temperature=0, or use draft, context, vocabulary, or relative with search=lookup"
            )
