"""Gates: alpha, the plug-in's weight for a prompt.

A gate is a value, `Gate`. `fact` (the default), `both`, `token` (the paper's), `memory` and `fixed`
make the library's.
"""

from onceedit_jax.gates.constant import fixed
from onceedit_jax.gates.fact import fact
from onceedit_jax.gates.fact_memory import both, memory
from onceedit_jax.gates.fitting import fit_gate
from onceedit_jax.gates.types import EDIT, UNLABELLED, UNRELATED, FittedGate, Gate, GateFeatures
from onceedit_jax.gates.weight_token import alpha, apply_threshold, token

__all__ = [
    "EDIT",
    "UNLABELLED",
    "UNRELATED",
    "FittedGate",
    "Gate",
    "GateFeatures",
    "alpha",
    "apply_threshold",
    "both",
    "fact",
    "fit_gate",
    "fixed",
    "memory",
    "token",
]
