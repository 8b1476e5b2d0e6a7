"""From both models' view of the same texts to the next tokens, compiled and in chunks."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from onceedit_jax.decoding.answers import View
from onceedit_jax.decoding.prefix_batching import head_of, padded
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.fusion.step import fused_step
from onceedit_jax.fusion.types import FusionInputs, FusionRule
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.types import Params


class Decision(NamedTuple):
    """Next tokens of B texts.

    Attributes:
      own: `[B]` int32, of the target alone.
      fused: `[B]` int32, of the fused system.
      losses: `[B, steps + 1]` float32, of the search; None for a rule without one.
    """

    own: Any
    fused: Any
    losses: Any


@partial(jax.jit, static_argnames=("rule", "plugin_config", "target_config"))
def decide(
    plugin_params: Params,
    target_params: Params,
    state: Any,
    view: View,
    target_states: jax.Array,
    alpha: jax.Array,
    *,
    rule: FusionRule,
    plugin_config: ModelConfig,
    target_config: ModelConfig,
) -> Decision:
    """One decision for each of B texts.

    Args:
      plugin_params: the part of the plug-in's parameters that `unembed` reads.
      target_params: the same of the target.
      state: the rule's state for the pair.
      view: the plug-in's view of the texts: `states` `[B, Ds]`, or `drafted` and `probability`
        `[B]`.
      target_states: `[B, Dl]`, the target's final states after the texts.
      alpha: `[B]`.
      rule: the fusion rule.
      plugin_config: the plug-in's configuration.
      target_config: the target's configuration.
    """
    plugin, target = (plugin_params, plugin_config), (target_params, target_config)
    inputs = inputs_of(plugin, target, view, target_states, alpha)
    step = fused_step(rule, state, inputs)
    return Decision(most_likely(inputs.target_logits), step.tokens, step.losses)


def inputs_of(
    plugin: tuple[Params, ModelConfig],
    target: tuple[Params, ModelConfig],
    view: View,
    target_states: jax.Array,
    alpha: jax.Array,
) -> FusionInputs:
    """What a rule reads, from both models' states; arguments as for `decide`."""
    states = view.get("states")
    return FusionInputs(
        None if states is None else unembed(*plugin, states),
        unembed(*target, target_states),
        alpha,
        view.get("drafted"),
        view.get("probability"),
    )


def decide_all(
    plugin: PreparedPlugin, target: PreparedTarget, view: View, target_states: Any, alphas: Any
) -> Decision:
    """`decide` for any number of texts, on the host, in chunks of the rule's batch size."""
    nothing = np.zeros(0, np.int32)
    own, fused, losses = [nothing], [nothing], []
    size = target.rule.batch_size
    for start in range(0, len(alphas), size):
        rows = slice(start, start + size)
        count = len(alphas[rows])
        step = decide(
            head_of(plugin.plugin.params),
            head_of(target.target.model.params),
            target.state,
            {name: padded(plugin.mesh, array[rows]) for name, array in view.items()},
            padded(plugin.mesh, target_states[rows]),
            padded(plugin.mesh, alphas[rows]),
            rule=target.rule,
            plugin_config=plugin.plugin.config,
            target_config=target.target.model.config,
        )
        own.append(to_host(step.own)[:count])
        fused.append(to_host(step.fused)[:count])
        if step.losses is not None:
            losses.append(to_host(step.losses)[:count])
    return Decision(
        np.concatenate(own), np.concatenate(fused), np.concatenate(losses) if losses else None
    )
