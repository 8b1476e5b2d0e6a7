"""The editing objective `L = L_gen + lambda * L_weight` (ONCE EDIT, section 3.1)."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Num


class EditLoss(NamedTuple):
    """The objective and its two terms, each a float32 scalar in nats."""

    total: Float[Array, ""]
    generation: Float[Array, ""]
    gate: Float[Array, ""]


def edit_loss(
    logits: Float[Array, "targets vocab"],
    targets: Int[Array, "targets"],
    target_mask: Num[Array, "targets"],
    gate_logits: Float[Array, "rows"],
    gate_labels: Num[Array, "rows"],
    gate_mask: Num[Array, "rows"],
    *,
    gate_weight: float = 0.8,
) -> EditLoss:
    """Cross-entropy of the edits' target tokens plus binary cross-entropy of the gate.

    The gate's logit is not one of `logits`. If [WEIGHT] were part of the softmax, L_gen would push
    down the very logit that L_weight pushes up. L_gen is the mean over target tokens, L_weight the
    mean over rows.

    Args:
      logits: the plug-in's logits before each of the batch's target tokens.
      targets: those tokens.
      target_mask: 0 for entries that only fill the list.
      gate_logits: logit_w, read at the last prompt token.
      gate_labels: 1 for rows about an edit and 0 for unrelated ones.
      gate_mask: 0 for rows that do not train the gate or only fill the batch.
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
