"""Names of gates, for the command line and for YAML files."""

from collections.abc import Callable
from importlib.metadata import entry_points

from onceedit_jax.errors import InputError
from onceedit_jax.gates.constant import fixed
from onceedit_jax.gates.fact import fact
from onceedit_jax.gates.fact_memory import both, memory
from onceedit_jax.gates.types import Gate
from onceedit_jax.gates.weight_token import token

ENTRY_POINTS = "onceedit_jax.gates"
GATES: dict[str, Callable[[], Gate]] = {
    "fact": fact,
    "both": both,
    "token": token,
    "memory": memory,
    "fixed": fixed,
}


def gate_names() -> list[str]:
    """All names that `gate_by_name` knows: this library's, and those of installed packages."""
    return [*GATES, *sorted(point.name for point in entry_points(group=ENTRY_POINTS))]


def gate_by_name(name: str, *, fixed_alpha: float | None = None) -> Gate:
    """A gate from its name.

    A package adds a name by an entry point of the group `onceedit_jax.gates` that leads to a
    `Gate`.

    Args:
      name: of the gate.
      fixed_alpha: alpha of the gate `fixed` (default: 0.5).

    Raises:
      InputError: no such name, or a fixed alpha for a gate that computes it.
    """
    if fixed_alpha is not None:
        if name != "fixed":
            raise InputError(
                f"fixed_alpha={fixed_alpha}: the gate {name} computes alpha itself; leave "
                "fixed_alpha out, or choose the gate fixed"
            )
        return fixed(fixed_alpha)
    if name in GATES:
        return GATES[name]()
    for point in entry_points(group=ENTRY_POINTS, name=name):
        gate: Gate = point.load()
        return gate
    raise InputError(f"gate {name!r}: expected one of {', '.join(gate_names())}")
