"""Greedy text of a plug-in and a target, fused token by token inside one compiled loop.

A table spells every token of the target in tokens of the plug-in. So what the target writes goes
back to the plug-in without waiting for the host.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onceedit_jax.decoding.greedy import Continuation, Endings, prefill, write_greedily
from onceedit_jax.fusion.step import fused_step
from onceedit_jax.fusion.types import FusionInputs, FusionRule
from onceedit_jax.models.cache import Cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import Params


class Spelling(NamedTuple):
    """How the plug-in writes the text of each target token.

    Attributes:
      tokens: `[Vl, M]` int32 tokens of the plug-in, right-padded.
      counts: `[Vl]` int32, how many of them; 0 where the text takes more than M, or is none.
    """

    tokens: jax.Array
    counts: jax.Array


class Prompts(NamedTuple):
    """B prompts as one model reads them: `tokens` and `positions` `[B, T]` int32, -1 on padding."""

    tokens: jax.Array
    positions: jax.Array


@partial(jax.jit, static_argnames=("plugin_config", "target_config", "rule", "steps"))
def fused_continuation(
    plugin_params: Params,
    plugin_config: ModelConfig,
    target_params: Params,
    target_config: ModelConfig,
    plugin_prompts: Prompts,
    target_prompts: Prompts,
    alpha: jax.Array,
    blank: jax.Array,
    state: Any,
    spelling: Spelling,
    endings: Endings,
    *,
    rule: FusionRule,
    steps: int,
    limit: int | jax.Array,
) -> Continuation:
    """The fused system's next token, again and again, until every row stops or waits.

    A row waits after a token that has no spelling; it is written all the same. The probabilities
    are those of the target.

    Args:
      plugin_params: parameters of the edited plug-in.
      plugin_config: its configuration.
      target_params: parameters of the target.
      target_config: its configuration.
      plugin_prompts: the texts so far, as the plug-in reads them.
      target_prompts: the same texts, as the target reads them.
      alpha: `[B]`.
      blank: `[B]` bool, rows whose answer so far is nothing but blanks.
      state: the rule's state for this pair.
      spelling: the way back from the target's tokens to the plug-in's.
      endings: when a row stops.
      rule: the fusion rule; it reads both models' logits.
      steps: K, tokens written at most.
      limit: at most K, without another compilation.
    """
    most = spelling.tokens.shape[1]
    first = jnp.max(target_prompts.positions, axis=1) + 1

    def choose(carry: Any) -> tuple[jax.Array, jax.Array]:
        (plugin_state, *_), (target_state, _) = carry
        logits = unembed(target_params, target_config, target_state)
        inputs = FusionInputs(unembed(plugin_params, plugin_config, plugin_state), logits, alpha)
        token = fused_step(rule, state, inputs).tokens
        chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
        return token, jnp.exp(chosen - jax.nn.logsumexp(logits, axis=-1))

    def read(carry: Any, token: jax.Array, step: jax.Array, running: jax.Array) -> Any:
        (plugin_state, place, cache), (target_state, target_cache) = carry
        at = jnp.where(running, first + step, -1)[:, None]
        hidden, target_cache = hidden_states(
            target_params, target_config, token[:, None], at, target_cache
        )
        pieces, counts = spelling.tokens[token], jnp.where(running, spelling.counts[token], 0)
        columns = jnp.arange(most)
        at = jnp.where(columns < counts[:, None], place[:, None] + columns, -1)
        states, cache = hidden_states(plugin_params, plugin_config, pieces, at, cache)
        assert cache is not None
        last = jnp.take_along_axis(states, jnp.maximum(counts - 1, 0)[:, None, None], axis=1)
        plugin_state = jnp.where(counts[:, None] > 0, last[:, 0], plugin_state)
        plugin = plugin_state, place + counts, _without_spare_columns(cache, most, jnp.max(counts))
        # A row that runs no more keeps its state: a new one, of nothing, would settle no fusion.
        target_state = jnp.where(running[:, None], hidden[:, 0], target_state)
        return plugin, (target_state, target_cache)

    plugin_state, cache = prefill(plugin_params, plugin_config, *plugin_prompts, room=steps * most)
    plugin = plugin_state, jnp.max(plugin_prompts.positions, axis=1) + 1, cache
    target = prefill(target_params, target_config, *target_prompts, room=steps)
    return write_greedily(
        choose,
        read,
        (plugin, target),
        first > 0,
        endings,
        steps=steps,
        limit=limit,
        blank=blank,
        pauses=spelling.counts == 0,
    )


def _without_spare_columns(cache: Cache, written: int, used: jax.Array) -> Cache:
    """Take back the last columns that no row used: the next ones are written over them."""
    return {**cache, "length": cache["length"] - written + used}
