"""[WEIGHT], the paper's gate: an output logit of the plug-in (ONCE EDIT, section 3.1)."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from onceedit_jax.gates.types import Gate, GateFeatures


@cache
def token() -> Gate:
    """The paper's gate: alpha = sigmoid(logit_w), learnt together with the edits."""
    return Gate("token", lambda features, labels: {}, _score, reads=frozenset({"weight_logit"}))


def _score(state: Any, features: GateFeatures) -> jax.Array:
    return alpha(jnp.asarray(features.weight_logit))


def init_gate(hidden_size: int) -> dict[str, Float[Array, "hidden"]]:
    """[WEIGHT]'s output row before training: `{"kernel": [D]}` float32 zeros, so alpha is 1/2."""
    return {"kernel": jnp.zeros(hidden_size, jnp.float32)}


def gate_logit(
    gate: dict[str, Any], hidden: Float[Array, "*batch hidden"]
) -> Float[Array, "*batch"]:
    """logit_w, the output logit of [WEIGHT].

    Args:
      gate: `{"kernel": [D]}`.
      hidden: `[..., D]`, the plug-in's final state at the last prompt token.

    Returns:
      `[...]` float32.
    """
    kernel = jnp.asarray(gate["kernel"], jnp.float32)
    return hidden.astype(jnp.float32) @ kernel


def alpha(logit: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The plug-in's weight in the fusion, sigmoid(logit_w), in (0, 1)."""
    return jax.nn.sigmoid(logit)


def apply_threshold(
    weight: Float[Array, "*batch"], threshold: float | Float[Array, ""]
) -> Float[Array, "*batch"]:
    """Alpha from the threshold up, and exactly 0 below, where the target answers by itself."""
    return jnp.where(weight >= threshold, weight, 0.0)


def joined_head(
    head: Float[Array, "vocab hidden"], gate: dict[str, Any]
) -> Float[Array, "vocab_and_weight hidden"]:
    """The vocabulary head with [WEIGHT] as its last row, as the paper writes it.

    Args:
      head: `[V, D]` output embeddings.
      gate: `{"kernel": [D]}`.

    Returns:
      `[V + 1, D]` in the head's dtype.
    """
    return jnp.concatenate([head, jnp.asarray(gate["kernel"], head.dtype)[None]])
