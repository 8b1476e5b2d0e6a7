"""How often the compiled steps of an ensemble were compiled."""

from onceedit_jax.decoding import cached_text, prefix_batching
from onceedit_jax.decoding.fused import fused_continuation
from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.ensemble import decisions

STEPS = (
    decisions.decide,
    prefix_batching._hidden,
    prefix_batching.extend,
    cached_text.tokens_at,
    cached_text.write_surely,
    cached_text.write_on,
    greedy_continuation,
    fused_continuation,
)


def compilations() -> list[int]:
    """The number of programs of each step."""
    return [step._cache_size() for step in STEPS]
