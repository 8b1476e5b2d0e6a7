"""The optimizer of the editing stage: clipping, a schedule, and a rate of its own for the gate."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.types import AnyArray


def make_optimizer(
    settings: EditSettings, total_steps: Float[AnyArray, ""]
) -> optax.GradientTransformation:
    """Clip by the global norm, then run the optimizer under its schedule.

    Args:
      settings: optimizer, rates, schedule, weight decay and clipping, resolved.
      total_steps: steps of the whole run; the schedule ends there. A traced value lets one compiled
        step serve runs of any length; the optimizer's state does not depend on it.

    Returns:
      A transformation of `{"model": ..., "gate": ...}`. The gate has its own learning rate.
    """
    assert settings.learning_rate is not None  # resolved

    def schedule(peak: float) -> optax.Schedule:
        return lambda step: peak * share_of_peak(settings, step, total_steps)

    make = getattr(optax, settings.optimizer)
    decays = settings.optimizer in ("adamw", "lion")
    options = {"weight_decay": settings.weight_decay} if decays else {}
    optimizer = optax.partition(
        {
            "model": make(schedule(settings.learning_rate), **options),
            "gate": make(schedule(settings.gate_learning_rate), **options),
        },
        {"model": "model", "gate": "gate"},
    )
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(clip, optimizer)


def share_of_peak(
    settings: EditSettings, step: Int[AnyArray, "*steps"], total_steps: Float[AnyArray, ""]
) -> Float[Array, "*steps"]:
    """The learning rate at a step as a share of its peak: a warm-up from zero, then the decay."""
    warmup = jnp.minimum(settings.warmup_steps, total_steps)
    done = jnp.clip((step - warmup) / jnp.maximum(total_steps - warmup, 1), 0.0, 1.0)
    decayed = {
        "constant": jnp.ones_like(done),
        "linear": 1.0 - done,
        "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
    }[settings.schedule]
    return jnp.where(step < warmup, step / jnp.maximum(warmup, 1), decayed)
