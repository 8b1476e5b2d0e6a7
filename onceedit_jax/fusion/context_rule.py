"""`context`: the target reads the edit that a prompt asks for, and answers by itself."""

from functools import cache

from jaxtyping import Array, Float

from onceedit_jax.fusion.draft_rule import draft_by, new_fact
from onceedit_jax.fusion.mixing import probabilities
from onceedit_jax.fusion.settings import ContextSettings, DraftSettings
from onceedit_jax.fusion.types import FusedStep, FusionInputs, FusionRule, PairSide
from onceedit_jax.models.argmax import most_likely


def context(*, draft: bool = False) -> FusionRule:
    """The rule that puts an edit into the target's prompt; nothing has to be trained for it.

    In-context editing (IKE, Zheng et al. 2023, arXiv 2305.12740), for the one edit that the gate
    names. Where the gate stays shut, the target reads nothing else than before. A target that
    follows instructions can reason with the fact; a small one often ignores it.

    Args:
      draft: the plug-in drafts as well, and the target that has read the fact checks the draft;
        not for a question that asks for more than the fact.

    Returns:
      The rule; equal settings give the same value. It needs a gate that names the edit, such as
      `gates.fact()`.
    """
    return context_by(ContextSettings(draft))


@cache
def context_by(settings: ContextSettings) -> FusionRule:
    """The rule of these settings; equal settings give the same value."""
    if settings.draft:
        drafted = draft_by(DraftSettings())
        return FusionRule(
            name="context, draft",
            prepare=drafted.prepare,
            step=drafted.step,
            reads="draft",
            tells=new_fact,
            settings=settings,
            distribution=drafted.distribution,
        )
    return FusionRule(
        name="context",
        prepare=_prepare,
        step=_step,
        reads="nothing",
        tells=new_fact,
        settings=settings,
        distribution=_distribution,
    )


def _prepare(plugin: PairSide, target: PairSide) -> tuple[()]:
    return ()


def _step(state: tuple[()], inputs: FusionInputs) -> FusedStep:
    return FusedStep(most_likely(inputs.target_logits))


def _distribution(state: tuple[()], inputs: FusionInputs) -> Float[Array, "batch target_vocab"]:
    return probabilities(inputs.target_logits)
