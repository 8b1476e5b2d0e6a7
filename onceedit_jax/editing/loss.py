"""The editing objective `L = L_gen + lambda * L_weight` (ONCE EDIT, section 3.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class EditLoss(NamedTuple):
    """The two terms of the objective and what they add up to, each a float32 scalar in nats."""

    total: jax.Array
    generation: jax.Array
    gate: jax.Array


def edit_loss(
    logits: jax.Array,
    targets: jax.Array,
    target_mask: jax.Array,
    gate_logits: jax.Array,
    gate_labels: jax.Array,
    gate_mask: jax.Array,
    *,
    gate_weight: float = 0.8,
) -> EditLoss:
    """Cross-entropy of the edits' target tokens plus binary cross-entropy of the gate.

    The gate's logit is no member of `logits`: were [WEIGHT] part of the softmax, L_gen would push
    down the very logit that L_weight pushes up. L_gen is the mean over target tokens, L_weight the
    mean over rows.

    Args:
      logits: `[N, V]` float, the plug-in's logits before each of the batch's target tokens.
      targets: `[N]` int32, those tokens.
      target_mask: `[N]`, 0 where an entry only fills the list.
      gate_logits: `[B]` float, logit_w read at the last prompt token.
      gate_labels: `[B]`, 1 for edit-related rows and 0 for unrelated ones.
      gate_mask: `[B]`, 0 for rows that only fill the batch.
      gate_weight: lambda; the paper uses 0.8.

    Returns:
      An `EditLoss`; differentiate `.total`.
    """
    mask = target_mask.astype(jnp.float32)
    token_loss = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), targets
    )
    generation = jnp.sum(token_loss * mask) / jnp.maximum(jnp.sum(mask), 1.0)

    rows = gate_mask.astype(jnp.float32)
    row_loss = optax.sigmoid_binary_cross_entropy(
        gate_logits.astype(jnp.float32), gate_labels.astype(jnp.float32)
    )
    gate = jnp.sum(row_loss * rows) / jnp.maximum(jnp.sum(rows), 1.0)
    return EditLoss(generation + gate_weight * gate, generation, gate)
