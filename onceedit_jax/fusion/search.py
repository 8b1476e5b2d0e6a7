"""From the relative space back to a token: the published gradient search, and its closed form.

Source: DeePEn, section 3.3 (search), and ONCE EDIT, section 3.3 (zero start, one-hot objective).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import xlogy
from jaxtyping import Array, Float, Int

from onceedit_jax.fusion.settings import SearchSettings
from onceedit_jax.relative.tables import EXCLUDED, Table

_TINY = 1e-30

# P `[B, A]`, or a one-hot P as its anchor alone, `[B]` int32.
Objective = Float[Array, "batch anchors"] | Int[Array | np.ndarray, "batch"]


class SearchResult(NamedTuple):
    """The end of a search.

    Attributes:
      logits: z, `[B, V]`.
      losses: `[B, steps + 1]`, the loss before the first step and after each step.
    """

    logits: Float[Array, "batch vocab"]
    losses: Float[Array, "batch steps_and_start"]


def one_hot_objective(relative: Float[Array, "batch anchors"]) -> Float[Array, "batch anchors"]:
    """ONCE EDIT's target augmentation: all mass of `P [B, A]` on its largest anchor."""
    return jax.nn.one_hot(jnp.argmax(relative, axis=-1), relative.shape[-1], dtype=relative.dtype)


def lookup(
    relative: Float[Array, "batch anchors"], lookup_table: Int[Array, "anchors"]
) -> Int[Array, "batch"]:
    """The token of the zero-start, one-hot search, without the search.

    Plain gradient descent from zeros keeps the largest entry of `R[:, a*]` on top at every step
    (docs/theory.md has the proof). So its token is `argmax_v R[v, a*]`, whatever the text is.

    Args:
      relative: `P [B, A]`.
      lookup_table: `[A]` int32 from `tables.lookup_table`.

    Returns:
      `[B]` int32 tokens.
    """
    return lookup_table[jnp.argmax(relative, axis=-1)]


def search_loss(
    logits: Float[Array, "batch vocab"],
    objective: Objective,
    table: Table,
    reduction: str = "mean",
) -> Float[Array, "batch"]:
    """KL(objective || softmax(z) R) of each example, with 0 log 0 = 0: `[B]` nats.

    Args:
      logits: z, `[B, V]`.
      objective: distributions `[B, A]`, or the anchors of one-hot ones, `[B]` int32.
      table: R of the target LLM.
      reduction: `sum` over anchors, or torch's `mean`, which divides the sum by A.
    """
    return _divergence(objective, table, reduction)(jax.nn.softmax(logits, axis=-1))


def gradient_search(
    objective: Objective,
    table: Table,
    start: Float[Array, "batch vocab"],
    *,
    settings: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
) -> SearchResult:
    """Minimise KL(objective || softmax(z) R) over logits z, for each example by itself.

    Args:
      objective: P, `[B, A]`. Or the anchor of a one-hot P, `[B]` int32: this takes one column of R
        for each example, and no product with R.
      table: R of the target LLM.
      start: the first z, `[B, V]`: zeros, or the LLM's own logits. With 0 steps it is the result.
      settings: steps, optimizer and loss.

    Returns:
      The logits and losses. Logits of rows without a token are -1e30, so they never win.
    """
    optimizer = _optimizer(settings)
    valid = table.valid
    divergence = _divergence(objective, table, settings.reduction)
    start = start.astype(jnp.promote_types(start.dtype, jnp.float32))
    logits = jnp.where(valid, start, EXCLUDED)

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = divergence(jax.nn.softmax(logits, axis=-1))
        return jnp.sum(losses), losses

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], jax.Array]:
        logits, state = carry
        gradient, losses = jax.grad(total, has_aux=True)(logits)
        updates, state = optimizer.update(gradient, state, logits)
        # Weight decay pulls every logit towards zero; rows without a token stay excluded.
        moved = jnp.where(valid, optax.apply_updates(logits, updates), EXCLUDED)
        return (moved, state), losses

    carry = (logits, optimizer.init(logits))
    (logits, _), losses = jax.lax.scan(step, carry, None, length=settings.steps)
    losses = jnp.concatenate([losses, total(logits)[1][None]])
    return SearchResult(logits, losses.T)


def _divergence(
    objective: Objective, table: Table, reduction: str
) -> Callable[[jax.Array], jax.Array]:
    """KL(objective || p R) of each example, as a function of p `[B, V]`."""
    divisor = table.num_anchors if reduction == "mean" else 1
    if objective.ndim == 1:
        columns = jax.vmap(table.column)(jnp.asarray(objective))
        return lambda p: -_log(jnp.sum(p * columns, axis=-1)) / divisor
    negative_entropy = jnp.sum(xlogy(objective, objective), axis=-1)

    def divergence(p: jax.Array) -> jax.Array:
        negative_cross_entropy = jnp.sum(objective * _log(table.to_relative(p)), axis=-1)
        return (negative_entropy - negative_cross_entropy) / divisor

    return divergence


def _log(mass: jax.Array) -> jax.Array:
    # Clamped, so that 0 log 0 is 0 and its gradient too.
    return jnp.log(jnp.maximum(mass, _TINY))


def _optimizer(settings: SearchSettings) -> optax.GradientTransformation:
    rate: optax.ScalarOrSchedule = settings.learning_rate
    if settings.schedule == "cosine":
        rate = optax.cosine_decay_schedule(settings.learning_rate, decay_steps=10, alpha=0.25)
    if settings.optimizer == "sgd":
        return optax.sgd(rate)
    return optax.adamw(
        rate, b1=settings.b1, b2=settings.b2, eps=settings.eps, weight_decay=settings.weight_decay
    )
