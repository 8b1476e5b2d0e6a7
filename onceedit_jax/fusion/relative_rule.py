"""`relative`: fusion over shared anchors, and the search back to a token (ONCE EDIT, section 3.3).

The paper's rule, DeePEn's, and every combination of their parts are settings of this one rule.
"""

import dataclasses
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from onceedit_jax.errors import InputError
from onceedit_jax.fusion.mixing import fuse_logits, fused_anchor
from onceedit_jax.fusion.search import gradient_search
from onceedit_jax.fusion.settings import (
    DEEPEN,
    Objective,
    RelativeSettings,
    Search,
    SearchSettings,
    Start,
)
from onceedit_jax.fusion.types import (
    FusedStep,
    FusionInputs,
    FusionRule,
    PairSide,
    plugin_logits_of,
)
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.relative.build import ModelTable
from onceedit_jax.relative.options import Kind, Normalization
from onceedit_jax.relative.tables import Table, TopKTable
from onceedit_jax.text.anchors import Anchors, anchors
from onceedit_jax.text.tokenizer import Tokenizer

LEAST_HELD = 0.9  # of p R, that a top-k table must hold
EXACT_BATCH = 256  # an exact table costs one pass, however many decisions share it


class RelativeState(NamedTuple):
    """A pair's tables.

    Attributes:
      plugin: R_s, the plug-in's relative representation.
      target: R_l, the target's, over the same anchors.
      lookup: `[A]` int32, the target token that the search finds for each anchor.
    """

    plugin: Table
    target: Table
    lookup: jax.Array


def relative(
    *,
    normalization: Normalization = "centered",
    start: Start = "zeros",
    objective: Objective = "one-hot",
    search: Search = "lookup",
    gradient: SearchSettings | None = None,
    table: Kind | None = None,
    allow_lossy: bool = False,
) -> FusionRule:
    """ONCE EDIT's rule (section 3.3): fuse over anchors, then search for the target's token.

    The paper reads alpha from [WEIGHT]: use it with `gates.token()`.

    Args:
      normalization: see `RelativeSettings`, as for all others.
      start: where the search starts.
      objective: what the search aims at.
      search: the closed form or the gradient search.
      gradient: settings of the gradient search (default: the published ones).
      table: how the matrices are held.
      allow_lossy: accept tables that lose much.

    Returns:
      The rule; equal settings give the same value. Its state is a `RelativeState`.

    Raises:
      InputError: a combination without a meaning.
    """
    return relative_by(
        RelativeSettings(
            normalization,
            start,
            objective,
            search,
            gradient or SearchSettings(),
            table,
            allow_lossy,
        )
    )


def deepen() -> FusionRule:
    """DeePEn (NeurIPS 2024): its matrices, and its search from the prior towards P.

    It knows no gate: use it with `gates.fixed(0.5)`.
    """
    return relative_by(DEEPEN)


@cache
def relative_by(settings: RelativeSettings) -> FusionRule:
    """The rule of these settings; equal settings give the same value."""
    rule = FusionRule(
        name="relative",
        prepare=partial(_prepare, settings),
        step=partial(_step, settings),
        settings=settings,
        distribution=_distribution if settings.search == "lookup" else None,
    )
    exact = settings.kind == "exact"
    return dataclasses.replace(rule, batch_size=EXACT_BATCH) if exact else rule


def pair_anchors(plugin: Tokenizer, target: Tokenizer) -> Anchors:
    """Anchors by the `bytes` rule, and the two end-of-answer tokens as one more.

    The end token is special in both vocabularies, so no rule on text can match it. Without it a
    fusion in the relative space could never stop.
    """
    shared = anchors(plugin.vocabulary, target.vocabulary, rule="bytes")
    taken = (shared.ids_a == plugin.end_id) | (shared.ids_b == target.end_id)
    ids_a = np.append(shared.ids_a[~taken], plugin.end_id).astype(np.int32)
    ids_b = np.append(shared.ids_b[~taken], target.end_id).astype(np.int32)
    order = np.argsort(ids_a)
    return Anchors(ids_a[order], ids_b[order])


def relative_state(
    plugin: PairSide, target: PairSide, shared: Anchors, settings: RelativeSettings
) -> RelativeState:
    """Both tables of a pair over given anchors.

    Raises:
      InputError: a top-k table holds under .9 of p R over real next-token distributions.
    """
    tables: list[ModelTable] = []
    for side, ids in ((plugin, shared.ids_a), (target, shared.ids_b)):
        part = side.relative_table(ids, normalization=settings.normalization, kind=settings.kind)
        held = part.health.held_mass
        if held is not None and held < LEAST_HELD and not settings.allow_lossy:
            raise InputError(
                f"the top-k table of {side.name} holds {held:.2f} of p R over real text, under "
                f"{LEAST_HELD}; use normalization=centered, or table=exact, or table=dense where "
                "the matrix fits in memory"
            )
        tables.append(part)
    return RelativeState(tables[0].table, tables[1].table, tables[1].lookup)


def _prepare(settings: RelativeSettings, plugin: PairSide, target: PairSide) -> RelativeState:
    shared = pair_anchors(plugin.tokenizer, target.tokenizer)
    return relative_state(plugin, target, shared, settings)


def _step(settings: RelativeSettings, state: RelativeState, inputs: FusionInputs) -> FusedStep:
    logits = plugin_logits_of(inputs, "relative"), inputs.target_logits
    plugin, target = state.plugin, state.target
    if settings.objective == "distribution":
        objective = fuse_logits(*logits, inputs.alpha, plugin, target)
    elif isinstance(plugin, TopKTable) and isinstance(target, TopKTable):
        objective = fused_anchor(*logits, inputs.alpha, plugin, target)
    else:
        objective = most_likely(fuse_logits(*logits, inputs.alpha, plugin, target))
    if settings.search == "lookup":
        return FusedStep(state.lookup[objective])
    prior = inputs.target_logits
    start = jnp.zeros_like(prior) if settings.start == "zeros" else prior
    result = gradient_search(objective, target, start, settings=settings.gradient)
    return FusedStep(most_likely(result.logits), result.losses)


def _distribution(state: RelativeState, inputs: FusionInputs) -> Float[Array, "batch target_vocab"]:
    """P with each anchor's share given to the token that the lookup finds for it."""
    logits = plugin_logits_of(inputs, "relative"), inputs.target_logits
    shares = fuse_logits(*logits, inputs.alpha, state.plugin, state.target)
    nothing = jnp.zeros(inputs.target_logits.shape, shares.dtype)
    return nothing.at[:, state.lookup].add(shares)
