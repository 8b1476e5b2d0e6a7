"""Why the gate `fact` opens for a prompt or stays shut: subjects found, and likenesses."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.errors import InputError
from onceedit_jax.gates.fact import NO_HEAD, edit_likeness, fact


class Finding(NamedTuple):
    """An edit whose subject a prompt names.

    Attributes:
      edit: its place among the edits.
      name: what the prompt calls its subject.
      likeness: how likely the prompt asks for the edit's relation, from 0 to 1.
    """

    edit: int
    name: str
    likeness: float


def explain(plugin: EditedPlugin, prompts: Sequence[str]) -> list[list[Finding]]:
    """The edits whose subject each prompt names, the likeliest first.

    Args:
      plugin: the edited plug-in.
      prompts: N texts.

    Raises:
      InputError: the plug-in was edited without a relation head.
    """
    relations = plugin.reader.relations
    if relations is None:
        raise InputError(f"{plugin.name}: {NO_HEAD}")
    if not prompts:
        return []
    features = plugin.reader.features({"relation"}, prompts)
    state = plugin.fitted(fact()).state
    likely = np.asarray(edit_likeness(state, features))
    subjects = np.asarray(state["subjects"])
    found = []
    for prompt, row in zip(prompts, likely, strict=True):
        named = {m.subject: prompt[m.start : m.stop] for m in reversed(relations.mentions(prompt))}
        edits = [e for e, subject in enumerate(subjects.tolist()) if subject in named]
        found.append(
            sorted(
                (Finding(e, named[int(subjects[e])], float(row[e])) for e in edits),
                key=lambda finding: -finding.likeness,
            )
        )
    return found
