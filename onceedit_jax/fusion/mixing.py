"""Both models' next-token distributions mixed by alpha, and the argmax of each mixture.

`fuse` mixes in the relative space (ONCE EDIT, section 3.3), `fuse_vocabulary` in the target's
vocabulary. A step needs only the argmax. `fused_anchor` and `fused_token` compute it from a few
tokens of each side, and compute the whole mixture only where these do not settle it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from onceedit_jax.fusion.batching import batchwise
from onceedit_jax.models.argmax import likely_tokens, most_likely
from onceedit_jax.relative.tables import EXCLUDED, Table, TopKTable
from onceedit_jax.relative.transfer import LEAST_SHARED, to_vocabulary

ROUNDING = 1e-5  # sums of many float32 terms: a smaller lead settles nothing


def fuse(
    plugin_probs: Float[Array, "batch plugin_vocab"],
    target_probs: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
    plugin_table: Table,
    target_table: Table,
) -> Float[Array, "batch anchors"]:
    """`P = alpha * p_s R_s + (1 - alpha) * p_l R_l` (ONCE EDIT, section 3.3).

    Args:
      plugin_probs: p_s, `[B, Vs]`.
      target_probs: p_l, `[B, Vl]`.
      alpha: `[B]`.
      plugin_table: R_s.
      target_table: R_l, over the same anchors.

    Returns:
      `[B, A]` float32 distributions over anchors.
    """
    weight = alpha[:, None]
    plugin = plugin_table.to_relative(plugin_probs)
    return weight * plugin + (1 - weight) * target_table.to_relative(target_probs)


def fuse_logits(
    plugin_logits: Float[Array, "batch plugin_vocab"],
    target_logits: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
    plugin_table: Table,
    target_table: Table,
) -> Float[Array, "batch anchors"]:
    """`fuse`, from logits."""
    probs = probabilities(plugin_logits), probabilities(target_logits)
    return fuse(*probs, alpha, plugin_table, target_table)


def fused_anchor(
    plugin_logits: Float[Array, "batch plugin_vocab"],
    target_logits: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
    plugin_table: TopKTable,
    target_table: TopKTable,
    *,
    top: int = 64,
) -> Int[Array, "batch"]:
    """`argmax fuse(...)`, from the table rows of a few tokens where these settle it.

    The tokens left out can add at most their whole mass to any one anchor. Where P over the `top`
    tokens of each side leads by more than that, its argmax is the argmax of P. If this fails for
    some row, all rows of the batch are fused in full. `vmap` makes one larger batch.

    Args:
      plugin_logits: `[B, Vs]`.
      target_logits: `[B, Vl]`.
      alpha: `[B]`.
      plugin_table: R_s.
      target_table: R_l, over the same anchors.
      top: tokens of each side that are looked at first.

    Returns:
      `[B]` int32.
    """
    decide = batchwise(partial(_anchor_of_batch, top=top), rows=3)
    anchors: jax.Array = decide(plugin_logits, target_logits, alpha, plugin_table, target_table)
    return anchors


def _anchor_of_batch(
    plugin_logits: jax.Array,
    target_logits: jax.Array,
    alpha: jax.Array,
    plugin_table: TopKTable,
    target_table: TopKTable,
    *,
    top: int,
) -> jax.Array:
    sides = _leaders(plugin_logits, alpha, top), _leaders(target_logits, 1 - alpha, top)
    relative = plugin_table.to_relative_of(*sides[0][:2])
    relative += target_table.to_relative_of(*sides[1][:2])
    anchors = most_likely(relative)
    others = jnp.arange(relative.shape[1]) != anchors[:, None]
    second = jnp.max(relative, axis=-1, where=others, initial=0.0)
    settled: jax.Array = jax.lax.cond(
        _settled(jnp.max(relative, axis=-1) - second, sides),
        lambda: anchors,
        lambda: most_likely(
            fuse_logits(plugin_logits, target_logits, alpha, plugin_table, target_table)
        ),
    )
    return settled


class _Leaders(NamedTuple):
    """Some tokens `[B, M]` of one side, their weighted shares, and the mass `[B]` of all others."""

    tokens: jax.Array
    shares: jax.Array
    left_out: jax.Array


def _leaders(logits: jax.Array, weight: jax.Array, top: int) -> _Leaders:
    logits = logits.astype(jnp.float32)
    tokens = likely_tokens(logits, top)
    chosen = jnp.take_along_axis(logits, tokens, axis=-1)
    # The largest logit is known already: a log-sum-exp would look for it in another pass.
    highest = chosen[:, :1]
    total = jnp.sum(jnp.exp(logits - highest), axis=-1, keepdims=True)
    shares = jnp.exp(chosen - highest) / total
    left_out = weight * jnp.maximum(1 - jnp.sum(shares, axis=-1), 0)
    return _Leaders(tokens, weight[:, None] * shares, left_out)


def _settled(lead: jax.Array, sides: tuple[_Leaders, _Leaders]) -> jax.Array:
    """Whether no token left out can overturn any row's lead `[B]`."""
    return jnp.all(lead > sides[0].left_out + sides[1].left_out + ROUNDING)


def fuse_vocabulary(
    plugin_probs: Float[Array, "batch plugin_vocab"],
    target_probs: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
    ids: Int[Array, "plugin_vocab"],
) -> Float[Array, "batch target_vocab"]:
    """`P = alpha * p_s M + (1 - alpha) * p_l`, in the target's vocabulary: `[B, Vl]`.

    Args:
      plugin_probs: p_s, `[B, Vs]`.
      target_probs: p_l, `[B, Vl]`.
      alpha: `[B]`.
      ids: M as one target token for each plug-in token, `[Vs]` int32, -1 for none.
    """
    weight = alpha[:, None]
    moved = to_vocabulary(plugin_probs, ids, target_probs.shape[1])
    return weight * moved + (1 - weight) * target_probs


def fused_token(
    plugin_logits: Float[Array, "batch plugin_vocab"],
    target_logits: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
    ids: Int[Array, "plugin_vocab"],
    *,
    top: int = 64,
) -> Int[Array, "batch"]:
    """`argmax fuse_vocabulary(...)`, from a few tokens of each side where these settle it.

    See `fused_anchor` for why a few tokens are enough.

    Args:
      plugin_logits: `[B, Vs]`.
      target_logits: `[B, Vl]`.
      alpha: `[B]`.
      ids: as for `fuse_vocabulary`.
      top: tokens of each side that are looked at first.

    Returns:
      `[B]` int32.
    """
    decide = batchwise(partial(_token_of_batch, top=top), rows=3)
    tokens: jax.Array = decide(plugin_logits, target_logits, alpha, jnp.asarray(ids))
    return tokens


def _token_of_batch(
    plugin_logits: jax.Array,
    target_logits: jax.Array,
    alpha: jax.Array,
    ids: jax.Array,
    *,
    top: int,
) -> jax.Array:
    # Tokens without a target token are left out of p_s, and the rest is scaled to one, as in
    # `to_vocabulary`.
    going = jnp.where(ids >= 0, plugin_logits, EXCLUDED)
    shared = jnp.exp(jax.nn.logsumexp(going, axis=-1) - jax.nn.logsumexp(plugin_logits, axis=-1))
    plugin = _leaders(going, alpha * jnp.minimum(shared / LEAST_SHARED, 1), top)
    target = _leaders(target_logits, 1 - alpha, top)
    moved = ids[plugin.tokens]
    candidates = jnp.concatenate([jnp.maximum(moved, 0), target.tokens], axis=1)
    shares = jnp.concatenate([jnp.where(moved >= 0, plugin.shares, 0), target.shares], axis=1)
    # A target token that leads on both sides, or that several plug-in tokens go to, is listed more
    # than once. Each of its places gets the sum of all its shares.
    same = candidates[:, :, None] == candidates[:, None, :]
    scores = jnp.sum(same * shares[:, None, :], axis=-1)
    best = jnp.max(scores, axis=1, keepdims=True)
    token = jnp.min(jnp.where(scores == best, candidates, target_logits.shape[1]), axis=1)
    second = jnp.max(scores, axis=1, where=candidates != token[:, None], initial=0.0)
    settled: jax.Array = jax.lax.cond(
        _settled(best[:, 0] - second, (plugin, target)),
        lambda: token,
        lambda: most_likely(
            fuse_vocabulary(probabilities(plugin_logits), probabilities(target_logits), alpha, ids)
        ),
    )
    return settled


def drafted_token(
    drafted: Int[Array, "batch"],
    probability: Float[Array, "batch"],
    target_logits: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
) -> Int[Array, "batch"]:
    """`argmax_v alpha * pi * [v = d] + (1 - alpha) * p_l(v)`, without a distribution over v.

    Only two tokens can win: the draft's and the target's own.

    Args:
      drafted: d, `[B]` int32 target tokens, -1 for none.
      probability: pi, `[B]`, the plug-in's probability of d's text.
      target_logits: `[B, Vl]`.
      alpha: `[B]`.

    Returns:
      `[B]` int32.
    """
    logits = target_logits.astype(jnp.float32)
    own, rows = most_likely(logits), jnp.arange(drafted.shape[0])
    token = jnp.where(drafted >= 0, drafted, own)
    total = jax.nn.logsumexp(logits, axis=-1)
    of_own, of_draft = ((1 - alpha) * jnp.exp(logits[rows, t] - total) for t in (own, token))
    lead = of_draft + alpha * probability - of_own
    wins = (lead > 0) | ((lead == 0) & (token < own))
    return jnp.where(wins & (drafted >= 0), token, own).astype(jnp.int32)


def fuse_draft(
    drafted: Int[Array, "batch"],
    probability: Float[Array, "batch"],
    target_probs: Float[Array, "batch target_vocab"],
    alpha: Float[Array, "batch"],
) -> Float[Array, "batch target_vocab"]:
    """`alpha * pi * [v = d] + (1 - alpha) * p_l(v)`, or p_l without a drafted token: `[B, Vl]`.

    The plug-in says nothing about tokens that it does not draft, so that a row's sum may be below
    1.

    Args:
      drafted: d, `[B]` int32 target tokens, -1 for none.
      probability: pi, `[B]`, the plug-in's probability of d's text.
      target_probs: p_l, `[B, Vl]`.
      alpha: `[B]`.
    """
    share = jnp.where(drafted >= 0, alpha * probability, 0.0)
    rest = jnp.where(drafted >= 0, 1 - alpha, 1.0)
    rows = jnp.arange(drafted.shape[0])
    return (rest[:, None] * target_probs).at[rows, jnp.maximum(drafted, 0)].add(share)


def probabilities(logits: Float[Array, "batch vocab"]) -> Float[Array, "batch vocab"]:
    """Softmax in float32."""
    return jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
