"""How often the compiled steps of an ensemble were compiled."""

from onceedit_jax.decoding import prefix_batching
from onceedit_jax.decoding.fused import fused_continuation
from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.ensemble import decisions

STEPS = (
    decisions.decide,
    prefix_batching._hidden,
    prefix_batching.extend,
    greedy_continuation,
    fused_continuation,
)


def compilations() -> list[int]:
    """The number of programs of each step."""
    return [step._cache_size() for step in STEPS]
