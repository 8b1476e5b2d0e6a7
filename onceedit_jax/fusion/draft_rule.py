"""`draft`: the plug-in drafts text, which the target's tokenizer reads and the target checks."""

from functools import cache, partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from onceedit_jax.errors import InputError
from onceedit_jax.fusion.mixing import drafted_token, fuse_draft, probabilities
from onceedit_jax.fusion.settings import Confidence, DraftSettings
from onceedit_jax.fusion.types import FusedStep, FusionInputs, FusionRule, PairSide


def draft(*, confidence: Confidence = "probability", trust: bool = False) -> FusionRule:
    """The rule by drafts, the default: `argmax alpha * pi * [v = d] + (1 - alpha) * p_l(v)`.

    Token by token, one vocabulary's `Wash` meets the other's `Washington` and both lose. Text has
    no such borders. Nothing is prepared for a pair. For a question that asks for more than the fact
    the target reads the fact and answers by itself, if the gate names the edit.

    Args:
      confidence: see `DraftSettings`.
      trust: see `DraftSettings`.

    Returns:
      The rule; equal settings give the same value.
    """
    return draft_by(DraftSettings(confidence, trust))


@cache
def draft_by(settings: DraftSettings) -> FusionRule:
    """The rule of these settings; equal settings give the same value."""
    parts = ["draft", settings.confidence == "sure" and "sure", settings.trust and "trusted"]
    return FusionRule(
        name=", ".join(part for part in parts if part),
        prepare=_prepare,
        step=partial(_step, settings),
        reads="draft",
        unchecked=settings.trust,
        tells=new_fact,
        tells_when="beyond",
        settings=settings,
        distribution=partial(_distribution, settings),
    )


def new_fact(question: str, answer: str) -> str:
    """The text that tells a target an edit.

    Args:
      question: the edit's prompt.
      answer: its new answer.
    """
    return f"New fact: {question} {answer.rstrip('.')}."


def _prepare(plugin: PairSide, target: PairSide) -> tuple[()]:
    return ()


def _step(settings: DraftSettings, state: tuple[()], inputs: FusionInputs) -> FusedStep:
    drafted, probability = _draft_of(settings, inputs)
    return FusedStep(drafted_token(drafted, probability, inputs.target_logits, inputs.alpha))


def _distribution(
    settings: DraftSettings, state: tuple[()], inputs: FusionInputs
) -> Float[Array, "batch target_vocab"]:
    drafted, probability = _draft_of(settings, inputs)
    target = probabilities(inputs.target_logits)
    return fuse_draft(drafted, probability, target, inputs.alpha)


def _draft_of(settings: DraftSettings, inputs: FusionInputs) -> tuple[jax.Array, jax.Array]:
    """The drafted tokens and how sure the plug-in counts as, both `[B]`."""
    if inputs.drafted is None or inputs.probability is None:
        raise InputError(
            "the rule draft reads `drafted` and `probability`, and the inputs have none; give "
            "both, or use a rule that reads logits"
        )
    probability = inputs.probability
    if settings.confidence == "sure":
        probability = jnp.ones_like(probability)
    return inputs.drafted, probability
