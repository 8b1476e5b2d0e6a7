"""The schedule of the editing stage's learning rate."""

import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.editing.optimizer import share_of_peak
from onceedit_jax.editing.settings import EditSettings

PEAK = 0.5


def optax_schedule(name: str, warmup: int, total: int) -> optax.Schedule:
    """The same schedule of optax's own parts, for a number of steps that is known beforehand."""
    warmup = min(warmup, total)
    after = max(1, total - warmup)
    decay = {
        "constant": optax.constant_schedule(PEAK),
        "linear": optax.linear_schedule(PEAK, 0.0, after),
        "cosine": optax.cosine_decay_schedule(PEAK, after),
    }[name]
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, PEAK, warmup), decay], [warmup])


@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
@settings(max_examples=20, deadline=None)
@given(warmup=st.integers(0, 12), total=st.integers(1, 12))
def test_rates_are_those_of_optax_schedules(name, warmup, total):
    chosen, steps = EditSettings(schedule=name, warmup_steps=warmup), np.arange(14)
    rates = PEAK * share_of_peak(chosen, steps, np.array(total, np.float32))
    np.testing.assert_allclose(rates, optax_schedule(name, warmup, total)(steps), atol=1e-6)
