"""One step of any rule: where alpha is 0 the target's own token stands."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from onceedit_jax.fusion.batching import batchwise
from onceedit_jax.fusion.types import FusedStep, FusionInputs, FusionRule
from onceedit_jax.models.argmax import most_likely


def fused_step(rule: FusionRule, state: Any, inputs: FusionInputs) -> FusedStep:
    """The next token of every row by a rule.

    Where alpha is 0 the token is the argmax of the target's logits, whatever the rule says: a
    closed gate leaves the target untouched.

    Args:
      rule: the fusion rule.
      state: what `rule.prepare` returned for this pair.
      inputs: both models' view of B texts.

    Returns:
      Tokens `[B]` int32, and the losses of a search if the rule has one.
    """
    step = rule.step(state, inputs)
    tokens = _own_where_closed(step.tokens, inputs.alpha, inputs.target_logits)
    return FusedStep(tokens, step.losses)


def fused_logits(
    rule: FusionRule, state: Any, inputs: FusionInputs
) -> Float[Array, "batch target_vocab"]:
    """Logits of the distribution that a rule fuses, `[B, Vl]`; tokens are drawn from them.

    Where alpha is 0 they are the target's, whatever the rule says.

    Args:
      rule: a fusion rule with a `distribution`.
      state: what `rule.prepare` returned for this pair.
      inputs: both models' view of B texts.
    """
    assert rule.distribution is not None
    shares = rule.distribution(state, inputs)
    return jnp.where(inputs.alpha[:, None] > 0, jnp.log(shares), inputs.target_logits)


def _own_token(tokens: jax.Array, alpha: jax.Array, target_logits: jax.Array) -> jax.Array:
    open_rows = alpha > 0
    chosen: jax.Array = jax.lax.cond(
        jnp.all(open_rows),
        lambda: tokens.astype(jnp.int32),
        lambda: jnp.where(open_rows, tokens, most_likely(target_logits)),
    )
    return chosen


_own_where_closed = batchwise(_own_token, rows=3)
