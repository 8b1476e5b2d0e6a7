"""Text of a plug-in and a target, fused token by token inside one compiled loop.

A table spells every token of the target in tokens of the plug-in. So the plug-in reads what the
target writes without a step on the host.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.decoding.greedy import Continuation, StopTokens, prefill, write_tokens
from onceedit_jax.decoding.sampled import probability_of
from onceedit_jax.decoding.sampling import Sampling, draw
from onceedit_jax.fusion.step import fused_logits, fused_step
from onceedit_jax.fusion.types import FusionInputs, FusionRule
from onceedit_jax.models.cache import Cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.types import Params


class Spelling(NamedTuple):
    """How the plug-in writes the text of each target token.

    Attributes:
      tokens: `[Vl, M]` int32 tokens of the plug-in, right-padded.
      counts: `[Vl]` int32, the number of these tokens; 0 for a token that is not text, or whose
        text takes more than M tokens.
    """

    tokens: Int[Array | np.ndarray, "target_vocab pieces"]
    counts: Int[Array | np.ndarray, "target_vocab"]


class Prompts(NamedTuple):
    """B prompts in the tokens of one model.

    Attributes:
      tokens: `[B, T]` int32.
      positions: `[B, T]` int32, -1 on padding.
    """

    tokens: Int[Array, "batch length"]
    positions: Int[Array, "batch length"]


@partial(jax.jit, static_argnames=("plugin_config", "target_config", "rule", "steps"))
def fused_continuation(
    plugin_params: Params,
    plugin_config: ModelConfig,
    target_params: Params,
    target_config: ModelConfig,
    plugin_prompts: Prompts,
    target_prompts: Prompts,
    alpha: Float[Array, "batch"],
    blank: Bool[Array, "batch"],
    state: Any,
    spelling: Spelling,
    stops: StopTokens,
    *,
    rule: FusionRule,
    steps: int,
    limit: int | Int[Array, ""],
    place: Int[Array, "batch"] | None = None,
    sampling: Sampling | None = None,
) -> Continuation:
    """The fused system's next token, again and again, until every row stops or waits.

    A row waits after a token that has no spelling. That token is written. The probabilities are
    those of the target. Tokens that are drawn are drawn from the rule's distribution.

    Args:
      plugin_params: parameters of the edited plug-in.
      plugin_config: its configuration.
      target_params: parameters of the target.
      target_config: its configuration.
      plugin_prompts: the texts so far, in the plug-in's tokens.
      target_prompts: the same texts, in the target's tokens.
      alpha: `[B]`.
      blank: `[B]` bool, rows whose answer holds only blanks so far.
      state: the rule's state for this pair.
      spelling: of the target's tokens, by the plug-in.
      stops: what ends a row.
      rule: the fusion rule; it reads both models' logits.
      steps: K, the most tokens that the result has room for.
      limit: the most tokens of this call, at most K; another value compiles nothing new.
      place: `[B]`, of each row in `stops.progress` (default: 0).
      sampling: how tokens are drawn, with K random numbers of each row; the rule needs a
        `distribution` (default: the rule's own tokens).
    """
    plugin, target = _Model(plugin_params, plugin_config), _Model(target_params, target_config)
    first = jnp.max(target_prompts.positions, axis=1) + 1
    loop = _Loop(plugin, target, first, alpha, state, spelling, rule, sampling)
    return write_tokens(
        loop.choose,
        loop.read,
        loop.start(plugin_prompts, target_prompts, steps),
        first > 0,
        stops,
        steps=steps,
        limit=limit,
        blank=blank,
        place=place,
        pauses=spelling.counts == 0,
    )


class _Model(NamedTuple):
    params: Params
    config: ModelConfig

    def logits(self, state: jax.Array) -> jax.Array:
        return unembed(self.params, self.config, state)


class _PluginCarry(NamedTuple):
    """After B texts: the plug-in's states `[B, D]`, next positions `[B]`, and cache."""

    state: jax.Array
    position: jax.Array
    cache: Cache


class _TargetCarry(NamedTuple):
    """After B texts: the target's states `[B, D]`, and cache."""

    state: jax.Array
    cache: Cache


_Carry = tuple[_PluginCarry, _TargetCarry]


class _Loop(NamedTuple):
    """How two models choose the next tokens together, and how each reads them.

    Attributes:
      first: `[B]` int32, the target's position of the first new token; 0 for a row of padding.
    """

    plugin: _Model
    target: _Model
    first: jax.Array
    alpha: jax.Array
    state: Any
    spelling: Spelling
    rule: FusionRule
    sampling: Sampling | None

    def start(self, plugin_prompts: Prompts, target_prompts: Prompts, steps: int) -> _Carry:
        """Run the prompts, with room for `steps` more tokens of the target."""
        room = steps * self.spelling.tokens.shape[1]
        state, cache = prefill(*self.plugin, *plugin_prompts, room=room)
        plugin = _PluginCarry(state, jnp.max(plugin_prompts.positions, axis=1) + 1, cache)
        return plugin, _TargetCarry(*prefill(*self.target, *target_prompts, room=steps))

    def choose(self, carry: _Carry, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The next tokens `[B]`, and the target's probabilities of them."""
        logits = self.target.logits(carry[1].state)
        inputs = FusionInputs(self.plugin.logits(carry[0].state), logits, self.alpha)
        if self.sampling is None:
            token = fused_step(self.rule, self.state, inputs).tokens
        else:
            token = draw(fused_logits(self.rule, self.state, inputs), self.sampling, step)
        return token, probability_of(token, logits)

    def read(self, carry: _Carry, token: jax.Array, step: jax.Array, running: jax.Array) -> _Carry:
        """Both models' carry after a target token `[B]` of each running row."""
        plugin, target = carry
        position = jnp.where(running, self.first + step, -1)[:, None]
        hidden, target_cache = hidden_states(*self.target, token[:, None], position, target.cache)
        assert target_cache is not None
        pieces = self.spelling.tokens[token]
        counts = jnp.where(running, self.spelling.counts[token], 0)
        plugin = self._read_pieces(plugin, pieces, counts)
        # A row that has stopped keeps its state: what a model makes of padding is so even that a
        # few tokens would not settle the fusion of any row.
        state = jnp.where(running[:, None], hidden[:, 0], target.state)
        return plugin, _TargetCarry(state, target_cache)

    def _read_pieces(
        self, carry: _PluginCarry, pieces: jax.Array, counts: jax.Array
    ) -> _PluginCarry:
        """The plug-in's carry after the first `counts` `[B]` of the tokens `pieces` `[B, M]`."""
        columns = jnp.arange(pieces.shape[1])
        positions = jnp.where(columns < counts[:, None], carry.position[:, None] + columns, -1)
        states, cache = hidden_states(*self.plugin, pieces, positions, carry.cache)
        assert cache is not None
        last = jnp.take_along_axis(states, jnp.maximum(counts - 1, 0)[:, None, None], axis=1)
        state = jnp.where(counts[:, None] > 0, last[:, 0], carry.state)
        position = carry.position + counts
        cache = _without_spare_columns(cache, pieces.shape[1], jnp.max(counts))
        return _PluginCarry(state, position, cache)


def _without_spare_columns(cache: Cache, written: int, used: jax.Array) -> Cache:
    """Give back the last columns that no row used; the next tokens are written over them."""
    return {**cache, "length": cache["length"] - written + used}
