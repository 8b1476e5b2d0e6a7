"""One prompt answered twice, before and after the edits, and why the two answers differ or not."""

import time
from typing import Annotated, Literal

from pydantic import Field

from onceedit_jax.serving.asking import Ask, Ended, Piece
from onceedit_jax.serving.completions import note_of, usage_of
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.reasons import Reasons
from onceedit_jax.serving.schemas import (
    AnswerRecord,
    EditNote,
    FinishReason,
    Messages,
    RequestRecord,
    Text,
    Usage,
)
from onceedit_jax.serving.service import BEFORE, Answers, Model


class ExplainRequest(RequestRecord):
    """A conversation to be answered before and after the edits; the last turn is the user's."""

    model: Text = Field(description=f"One of the names that /v1/models lists, without {BEFORE!r}.")
    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Of each of the two answers."
    )


class ExplainedAnswer(AnswerRecord):
    """One of the two answers."""

    content: str
    finish_reason: FinishReason


class Explanation(AnswerRecord):
    """A target's answer before and after the edits; both are the most likely tokens."""

    object: Literal["explanation"] = "explanation"
    created: int
    model: str
    before: ExplainedAnswer = Field(description="The target's, as it was before all edits.")
    after: ExplainedAnswer
    onceedit: EditNote
    reasons: Reasons
    usage: Usage = Field(description="Of both answers.")


def explain_asks(request: ExplainRequest, model: Model, answer_tokens: int) -> list[Ask]:
    """What a request asks: the answer before the edits, then the one after them.

    Raises:
      Problem: the model is the target before all edits, where there is nothing to explain.
    """
    if not model.edited:
        raise Problem(
            400, f"{request.model} has no edits; ask {model.target}, which answers both ways",
            param="model",
        )  # fmt: skip
    turns = [message.turn for message in request.messages]
    return [
        Ask(
            prompt=turns,
            target=model.target,
            chat=True,
            edited=edited,
            max_tokens=request.max_tokens,
            usual_tokens=answer_tokens,
            reasons=edited,
        )
        for edited in (False, True)
    ]


async def explanation(answers: Answers, model: str) -> Explanation:
    """The answers of `explain_asks`, when they are written.

    Args:
      answers: not begun.
      model: the name that the client asked.

    Raises:
      Problem: too many requests wait, an answer fails, or it takes too long.
    """
    await answers.begin()
    texts, ends = ["", ""], dict[int, Ended]()
    async for index, event in answers.events():
        if isinstance(event, Piece):
            texts[index] += event.text
        elif isinstance(event, Ended):
            ends[index] = event
    before, after = (
        ExplainedAnswer(content=texts[i], finish_reason=ends[i].reason) for i in range(2)
    )
    begun = answers.begun[1]
    assert begun.reasons is not None
    return Explanation(
        created=int(time.time()),
        model=model,
        before=before,
        after=after,
        onceedit=note_of(begun),
        reasons=begun.reasons,
        usage=usage_of(answers.begun, ends),
    )
