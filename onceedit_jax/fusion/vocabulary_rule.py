"""`vocabulary`: the plug-in's distribution, moved into the target's vocabulary token by token."""

from functools import cache

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from onceedit_jax.fusion.mixing import fuse_vocabulary, fused_token, probabilities
from onceedit_jax.fusion.settings import VocabularySettings
from onceedit_jax.fusion.types import (
    FusedStep,
    FusionInputs,
    FusionRule,
    PairSide,
    plugin_logits_of,
)
from onceedit_jax.text.bridge import Bridge


@cache
def vocabulary() -> FusionRule:
    """The rule in the target's vocabulary: `argmax alpha * p_s M + (1 - alpha) * p_l`.

    It needs no search and no tables. A word that the two tokenizers split differently can get lost.

    Returns:
      The rule; its state is M as `[Vs]` int32, the target token of each plug-in token, -1 for none.
    """
    return FusionRule(
        "vocabulary", _prepare, _step, settings=VocabularySettings(), distribution=_distribution
    )


def _prepare(plugin: PairSide, target: PairSide) -> Int[Array, "plugin_vocab"]:
    ids = Bridge(plugin.tokenizer, target.tokenizer).first_tokens()
    padding = plugin.config.vocab_size - len(ids)
    return jnp.pad(ids, (0, padding), constant_values=-1)


def _step(ids: jax.Array, inputs: FusionInputs) -> FusedStep:
    logits = plugin_logits_of(inputs, "vocabulary")
    return FusedStep(fused_token(logits, inputs.target_logits, inputs.alpha, ids))


def _distribution(ids: jax.Array, inputs: FusionInputs) -> Float[Array, "batch target_vocab"]:
    plugin = probabilities(plugin_logits_of(inputs, "vocabulary"))
    return fuse_vocabulary(plugin, probabilities(inputs.target_logits), inputs.alpha, ids)
