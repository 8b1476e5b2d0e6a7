"""Refuses a fusion rule and a gate that do not fit together."""

from onceedit_jax.errors import InputError
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.gates.types import FittedGate


def check_rule(rule: FusionRule, gate: FittedGate) -> None:
    """Refuse a rule that needs what a gate does not give."""
    if rule.unchecked and gate.trust_threshold is None:
        raise InputError(
            f"the rule {rule.name} trusts a draft where alpha is high, and the gate {gate.name} "
            "gives every prompt the same alpha; use another gate, or a rule that checks drafts"
        )
    if rule.tells is not None and gate.gate.means is None:
        raise InputError(
            f"the rule {rule.name} tells a target the edit that a prompt asks for, and the gate "
            f"{gate.name} does not know which one it is; use the gate fact"
        )
