"""From the relative space back to a token: the published gradient search, and its closed form.

Source: DeePEn, section 3.3 (search), and ONCE EDIT, section 3.3 (zero start, one-hot target).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.scipy.special import xlogy

from onceedit_jax.fusion.settings import SearchSettings
from onceedit_jax.relative.tables import EXCLUDED, Table

_TINY = 1e-30


class SearchResult(NamedTuple):
    """Where a search ended: logits `[B, V]`, and its loss `[B, steps + 1]` before and after."""

    logits: jax.Array
    losses: jax.Array


def one_hot_target(relative: jax.Array) -> jax.Array:
    """ONCE EDIT's target augmentation: all mass of `P [B, A]` on its largest anchor."""
    return jax.nn.one_hot(jnp.argmax(relative, axis=-1), relative.shape[-1], dtype=relative.dtype)


def lookup(relative: jax.Array, lookup_table: jax.Array) -> jax.Array:
    """The token that the zero-start, one-hot search finds, without the search.

    Plain gradient descent from zeros keeps the largest entry of `R[:, a*]` on top at every step
    (docs/theory.md proves it): its token is `argmax_v R[v, a*]`, known before any text is seen.

    Args:
      relative: `P [B, A]`.
      lookup_table: `[A]` int32 from `tables.lookup_table`.

    Returns:
      `[B]` int32 tokens.
    """
    return lookup_table[jnp.argmax(relative, axis=-1)]


def search_loss(
    logits: jax.Array, target: jax.Array, table: Table, reduction: str = "mean"
) -> jax.Array:
    """KL(target || softmax(z) R) of each example, with 0 log 0 = 0: `[B]` nats.

    Args:
      logits: z, `[B, V]`.
      target: distributions `[B, A]`, or one-hot ones by their anchor, `[B]` int32.
      table: R of the target LLM.
      reduction: `sum` over anchors, or torch's `mean`, which divides it by A.
    """
    return _divergence(target, table, reduction)(jax.nn.softmax(logits, axis=-1))


def gradient_search(
    target: jax.Array,
    table: Table,
    start: jax.Array,
    *,
    settings: SearchSettings = SearchSettings(),  # noqa: B008 (frozen)
) -> SearchResult:
    """Minimise KL(target || softmax(z) R) over logits z; examples do not touch one another.

    Args:
      target: P, `[B, A]`; or its one-hot augmentation by its anchor alone, `[B]` int32, which
        needs one column of R for each example and no product with R.
      table: R of the target LLM.
      start: z at first, `[B, V]`: zeros, or the LLM's own logits. With 0 steps it is the result.
      settings: steps, optimizer and loss.

    Returns:
      The logits; rows of R that are no token are at -1e30 and never win.
    """
    optimizer = _optimizer(settings)
    valid = table.valid
    divergence = _divergence(target, table, settings.reduction)
    start = start.astype(jnp.promote_types(start.dtype, jnp.float32))
    logits = jnp.where(valid, start, EXCLUDED)

    def total(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        losses = divergence(jax.nn.softmax(logits, axis=-1))
        return jnp.sum(losses), losses

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], jax.Array]:
        logits, state = carry
        gradient, losses = jax.grad(total, has_aux=True)(logits)
        updates, state = optimizer.update(gradient, state, logits)
        # Weight decay pulls every logit towards zero; rows that are no token stay out.
        moved = jnp.where(valid, optax.apply_updates(logits, updates), EXCLUDED)
        return (moved, state), losses

    carry = (logits, optimizer.init(logits))
    (logits, _), losses = jax.lax.scan(step, carry, None, length=settings.steps)
    losses = jnp.concatenate([losses, total(logits)[1][None]])
    return SearchResult(logits, losses.T)


def _divergence(
    target: jax.Array, table: Table, reduction: str
) -> Callable[[jax.Array], jax.Array]:
    """KL(target || p R) of each example, as a function of p `[B, V]`."""
    divisor = table.num_anchors if reduction == "mean" else 1
    if target.ndim == 1:
        columns = jax.vmap(table.column)(target)
        return lambda p: -_log(jnp.sum(p * columns, axis=-1)) / divisor
    negative_entropy = jnp.sum(xlogy(target, target), axis=-1)

    def divergence(p: jax.Array) -> jax.Array:
        crossed = jnp.sum(target * _log(table.to_relative(p)), axis=-1)
        return (negative_entropy - crossed) / divisor

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
