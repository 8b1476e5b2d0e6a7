"""The optimizer of the editing stage: clipping, a schedule, and a rate of its own for the gate."""

import optax

from onceedit_jax.editing.settings import EditSettings


def make_optimizer(settings: EditSettings, total_steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, then run the optimizer under its schedule.

    Args:
      settings: optimizer, rates, schedule, weight decay and clipping, resolved.
      total_steps: steps of the whole run; the schedule ends there.

    Returns:
      A transformation of `{"model": ..., "gate": ...}`. The gate has its own learning rate.
    """
    assert settings.learning_rate is not None  # resolved
    warmup = min(settings.warmup_steps, total_steps)
    after = max(1, total_steps - warmup)

    def schedule(peak: float) -> optax.Schedule:
        decay = {
            "constant": optax.constant_schedule(peak),
            "linear": optax.linear_schedule(peak, 0.0, after),
            "cosine": optax.cosine_decay_schedule(peak, after),
        }[settings.schedule]
        if not warmup:
            return decay
        return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])

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
