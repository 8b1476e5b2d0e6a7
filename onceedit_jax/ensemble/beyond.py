"""Which prompts ask for more than the fact that they name an edit of.

After an edit of Australia's capital, *Is Canberra the capital of Australia?* and *How many people
live in the capital of Australia?* need the fact, but its answer is not theirs.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int

from onceedit_jax.ensemble.hops import next_hops
from onceedit_jax.ensemble.preparation import PreparedPlugin
from onceedit_jax.text.prompts import Prompt, plain_text
from onceedit_jax.text.questions import answered_by_yes_or_no


def asks_beyond(
    plugin: PreparedPlugin, prompts: Sequence[Prompt], edits: Int[np.ndarray, "prompts"]
) -> Bool[np.ndarray, "prompts"]:
    """Prompts that are answered by yes or no, or that ask something of what an edit answers.

    An edit that is itself a question for yes or no is asked by such prompts. Of a conversation the
    user's last words are looked at. Without a gate that knows relations no prompt is found.

    Args:
      plugin: the prepared plug-in.
      prompts: N texts or conversations.
      edits: `[N]`, the place of the edit that each asks for, `NOTHING` for none.
    """
    beyond = np.zeros(len(prompts), bool)
    relations = plugin.plugin.reader.relations
    if relations is None or plugin.gate.gate.means is None:
        return beyond

    def is_yes_or_no(text: str) -> bool:
        return any(answered_by_yes_or_no(text, each) for each in relations.mentions(text))

    entries = plugin.plugin.info.edits
    texts = {i: plain_text(prompts[i]) for i in np.flatnonzero(edits >= 0).tolist()}
    for i, text in texts.items():
        beyond[i] = is_yes_or_no(text) and not is_yes_or_no(entries[edits[i]].prompt)
    left = {i: text for i, text in texts.items() if not beyond[i]}
    beyond[list(next_hops(plugin, left))] = True
    return beyond
