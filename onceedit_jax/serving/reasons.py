"""Why an edit speaks in an answer, or none does: the gate, what a prompt names, and the rule."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from pydantic import Field

from onceedit_jax.editing.explanation import explain
from onceedit_jax.ensemble.hops import Hop
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.serving.edits import Edits
from onceedit_jax.serving.schemas import AnswerRecord
from onceedit_jax.text.prompts import Prompt, plain_text


class NamedEdit(AnswerRecord):
    """An edit whose subject a prompt names."""

    edit: int = Field(description="Its id.")
    name: str = Field(description="What the prompt calls its subject.")
    likeness: float = Field(
        description="How likely the prompt asks for the edit's relation, from 0 to 1."
    )
    apart: list[str] = Field(
        description="Words by which the prompt asks for another fact than the edit, as 'previous'; "
        "then the likeness is 0."
    )


class ReplacedPhrase(AnswerRecord):
    """An inner phrase of a question that gave way to the answer of an edit."""

    phrase: str
    edit: int = Field(description="Id of the edit that the phrase asks for.")
    likeness: float = Field(description="How likely it asks for it, from 0 to 1.")
    text: str = Field(description="What is asked instead.")


class Reasons(AnswerRecord):
    """Why an edit speaks in an answer, or none does."""

    rule: str | None = Field(
        description="The fusion rule by which the plug-in speaks; null where the target answers by "
        "itself."
    )
    gate: str = Field(description="What chose alpha.")
    threshold: float = Field(description="Alphas below it count as 0.")
    hops: list[ReplacedPhrase]
    beyond: bool = Field(
        description="Whether the prompt asks for more than the edit's fact, so that the target has "
        "read the fact and answers by itself."
    )
    named: list[NamedEdit] | None = Field(
        description="The edits whose subject the prompt names after its hops, the likeliest first; "
        "null for a gate that does not look for subjects."
    )


def explained(
    edits: Edits,
    rule: FusionRule,
    prompts: Sequence[Prompt],
    hops: Sequence[Sequence[Hop]],
    active: Bool[np.ndarray, "prompts"],
    beyond: Bool[np.ndarray, "prompts"],
) -> list[Reasons]:
    """The reasons of N prompts.

    Args:
      edits: the edits that their answers begin with.
      rule: the target's.
      prompts: N prompts, after their hops.
      hops: of each.
      active: `[N]`, whether an edit is asked for.
      beyond: `[N]`, whether for more than its fact.
    """
    return [
        Reasons(
            rule=rule.name if speaks and not more else None,
            gate=edits.plugin.gate.name,
            threshold=edits.plugin.threshold,
            hops=[_replaced(edits, hop) for hop in each],
            beyond=more,
            named=named,
        )
        for each, speaks, more, named in zip(
            hops, active.tolist(), beyond.tolist(), _named(edits, prompts), strict=True
        )
    ]


def _replaced(edits: Edits, hop: Hop) -> ReplacedPhrase:
    return ReplacedPhrase(
        phrase=hop.phrase, edit=_id(edits, hop.edit), likeness=hop.likeness, text=hop.text
    )


def _named(edits: Edits, prompts: Sequence[Prompt]) -> list[list[NamedEdit] | None]:
    if "relation" not in edits.plugin.gate.gate.reads:
        return [None for _ in prompts]
    texts = [plain_text(prompt) for prompt in prompts]
    return [
        [
            NamedEdit(
                edit=_id(edits, each.edit),
                name=each.name,
                likeness=each.likeness,
                apart=sorted(each.apart),
            )
            for each in findings
        ]
        for findings in explain(edits.plugin.plugin, texts)
    ]


def _id(edits: Edits, place: int) -> int:
    number = edits.id_of(place)
    assert number is not None  # a place of an edit has one
    return number
