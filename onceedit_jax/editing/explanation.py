"""Why the gate `fact` opens or stays shut: subjects, likenesses, and what tells facts apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.errors import InputError
from onceedit_jax.gates.fact import NO_HEAD, edit_likeness, fact
from onceedit_jax.text.qualifiers import qualifiers


class Finding(NamedTuple):
    """An edit whose subject a prompt names.

    Attributes:
      edit: its place among the edits.
      name: what the prompt calls its subject.
      likeness: how likely the prompt asks for the edit's relation, from 0 to 1; 0 where it is
        `apart`.
      apart: qualifiers that either the prompt or the edit asks with: they are about different
        facts, as that of the previous mayor and that of the mayor.
    """

    edit: int
    name: str
    likeness: float
    apart: frozenset[str] = frozenset()


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
    subjects, own = np.asarray(state["subjects"]), plugin.qualifiers
    found = []
    for prompt, row in zip(prompts, likely, strict=True):
        named = {mention.subject: mention for mention in reversed(relations.mentions(prompt))}
        asked = {number: qualifiers(prompt, mention) for number, mention in named.items()}
        findings = []
        for e in np.flatnonzero(np.isin(subjects, list(named))).tolist():
            number = int(subjects[e])
            name = prompt[named[number].start : named[number].stop]
            findings.append(Finding(e, name, float(row[e]), asked[number].apart(own[e])))
        found.append(sorted(findings, key=lambda finding: -finding.likeness))
    return found
