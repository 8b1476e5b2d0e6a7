"""Which prompts ask for more than the fact that they name an edit of, and what targets are told.

After an edit of Australia's capital, *Is Canberra the capital of Australia?* and *What is the
population of the capital of Australia?* need the fact, but its answer is not theirs.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from onceedit_jax.ensemble.hops import follow
from onceedit_jax.ensemble.preparation import PreparedPlugin
from onceedit_jax.fusion.types import FusionRule, leaves_out, tells_always
from onceedit_jax.text.asked_sentence import is_in_task
from onceedit_jax.text.inner_phrases import inner_phrases
from onceedit_jax.text.prompts import Prompt, plain_text, told
from onceedit_jax.text.questions import answered_by_reasons, answered_by_yes_or_no
from onceedit_jax.text.subjects import Mention


def asks_beyond(
    plugin: PreparedPlugin,
    rules: Sequence[FusionRule],
    prompts: Sequence[Prompt],
    edits: Int[np.ndarray, "prompts"],
) -> Bool[np.ndarray, "prompts"]:
    """Prompts that need the fact and another answer than the edit's.

    They are answered by yes or no or by reasons, are a task, or ask something of the edit's answer.

    An edit that is worded in one of these ways itself is asked by such prompts. Of a conversation
    the user's last words are looked at. No prompt is found without a gate that knows relations, or
    where it makes no difference to any rule.

    Args:
      plugin: the prepared plug-in.
      rules: those of the targets that are asked.
      prompts: N texts or conversations.
      edits: `[N]`, the place of the edit that each asks for, `NOTHING` for none.
    """
    beyond = np.zeros(len(prompts), bool)
    relations = plugin.plugin.reader.relations
    if relations is None or plugin.gate.gate.means is None or not any(map(leaves_out, rules)):
        return beyond
    assert plugin.plugin.relation is not None
    numbers = np.asarray(plugin.plugin.relation["subjects"])
    others: dict[int, str] = {}
    for i in np.flatnonzero(edits >= 0).tolist():
        text, own = plain_text(prompts[i]), plugin.plugin.info.edits[edits[i]].prompt
        number = numbers[edits[i]]
        named = [each for each in relations.subjects.find(own) if each.subject == number]
        mention = next((m for m in relations.mentions(text) if m.subject == number), None)
        if mention is None:
            continue
        if _needs_more(text, mention):
            beyond[i] = not any(_needs_more(own, each) for each in named)
        elif not any(phrase.within for each in named for phrase in inner_phrases(own, each)):
            others[i] = text
    found = follow(plugin, list(others.values()), hops=1)
    beyond[[i for i, hops in zip(others, found, strict=True) if hops]] = True
    return beyond


def _needs_more(text: str, mention: Mention) -> bool:
    by_itself = answered_by_yes_or_no, answered_by_reasons, is_in_task
    return any(each(text, mention) for each in by_itself)


def as_told(
    plugin: PreparedPlugin,
    rule: FusionRule,
    prompts: Sequence[Prompt],
    edits: Int[np.ndarray, "prompts"],
    beyond: Bool[np.ndarray, "prompts"],
) -> list[Prompt]:
    """The prompts as a target reads them: after the edit that each asks for, where the rule tells.

    Args:
      plugin: the prepared plug-in.
      rule: the target's rule.
      prompts: N texts or conversations.
      edits: `[N]`, the place of the edit that each asks for, `NOTHING` for none.
      beyond: `[N]`, from `asks_beyond`.
    """
    tells, entries = rule.tells, plugin.plugin.info.edits
    if tells is None:
        return list(prompts)
    where = (edits >= 0) & (beyond | tells_always(rule))
    return [
        told(prompt, tells(entries[edit].prompt, entries[edit].target)) if is_told else prompt
        for prompt, edit, is_told in zip(prompts, edits.tolist(), where, strict=True)
    ]
