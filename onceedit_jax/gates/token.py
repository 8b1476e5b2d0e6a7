"""[WEIGHT]: the plug-in's own word on how much it should be trusted (ONCE EDIT, section 3.1).

Beside the paper's gate, which is the learnt token alone, there are two with a scope memory
(`memory.py`): alpha counts only where an edit is in reach (`both`), or reach is all (`memory`).
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

GateKind = Literal["token", "memory", "both"]


def init_gate(hidden_size: int) -> dict[str, jax.Array]:
    """A gate that says alpha = 1/2 to everything: `{"kernel": [D]}` of float32 zeros."""
    return {"kernel": jnp.zeros(hidden_size, jnp.float32)}


def gate_logit(gate: dict[str, Any], hidden: jax.Array) -> jax.Array:
    """logit_w, the output logit of [WEIGHT].

    Args:
      gate: `{"kernel": [D]}`.
      hidden: `[..., D]`, the plug-in's final state at the last prompt token.

    Returns:
      `[...]` float32.
    """
    kernel = jnp.asarray(gate["kernel"], jnp.float32)
    return hidden.astype(jnp.float32) @ kernel


def alpha(logit: jax.Array) -> jax.Array:
    """The plug-in's weight in the fusion, sigmoid(logit_w), in (0, 1)."""
    return jax.nn.sigmoid(logit)


def gated(
    kind: GateKind, logit: jax.Array, in_reach: jax.Array, evidence: float | jax.Array = 0.0
) -> jax.Array:
    """Alpha by the kind of gate.

    `both` weighs two witnesses as Bayes' rule does, taking them for independent: the memory's word
    that an edit is in reach adds its log-likelihood ratio to what [WEIGHT] says.

    Args:
      kind: `token` (the paper's), `memory`, or `both`.
      logit: logit_w, `[...]`.
      in_reach: whether the memory knows an edit that a text may concern, `[...]` bool.
      evidence: log of how much likelier an edit's prompt is to be in reach than another text.

    Returns:
      `[...]`: sigmoid(logit); 1 in reach; or sigmoid(logit + evidence) in reach. The latter two are
      0 outside.
    """
    if kind == "token":
        return alpha(logit)
    return jnp.where(in_reach, 1.0 if kind == "memory" else alpha(logit + evidence), 0.0)


def apply_threshold(weight: jax.Array, threshold: float | jax.Array) -> jax.Array:
    """Alpha as it is from the threshold up, and exactly 0 below: the target is left alone there."""
    return jnp.where(weight >= threshold, weight, 0.0)


def joined_head(head: jax.Array, gate: dict[str, Any]) -> jax.Array:
    """The vocabulary head with [WEIGHT] as its last row: the paper's view of the same numbers.

    Args:
      head: `[V, D]` output embeddings.
      gate: `{"kernel": [D]}`.

    Returns:
      `[V + 1, D]` in the head's dtype.
    """
    return jnp.concatenate([head, jnp.asarray(gate["kernel"], head.dtype)[None]])
