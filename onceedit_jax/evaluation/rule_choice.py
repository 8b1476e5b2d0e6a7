"""Chooses the fusion rule of each target: does it say what its prompt tells it?

The rule `context` lets a target reason with an edit, and is worth nothing where the target ignores
its prompt. The rule `draft` needs no help of the target.
"""

import dataclasses
import math
from collections.abc import Sequence

from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import demo_path
from onceedit_jax.ensemble.ensemble import Ensemble
from onceedit_jax.evaluation.probes import says
from onceedit_jax.fusion.context_rule import context
from onceedit_jax.fusion.draft_rule import draft, new_fact
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.text.prompts import told

# Of ten told facts a target that takes half of all says eight or more in one trial of twenty, and
# one that takes 97 of 100 says fewer than eight in one trial of 300.
ENOUGH = 0.8


@dataclasses.dataclass(frozen=True)
class RuleChoice:
    """A target's rule, and what it was chosen by.

    Attributes:
      target: the target's name.
      rule: the rule.
      said: how many of the facts that its prompt told the target said.
      asked: how many it was asked for.
    """

    target: str
    rule: FusionRule
    said: int
    asked: int

    def __str__(self) -> str:
        """One line with the reason."""
        return (
            f"{self.target}: {self.rule.name} (says {self.said} of {self.asked} facts that its "
            f"prompt tells; context needs {needed(self.asked)})"
        )


def needed(asked: int) -> int:
    """How many of the facts a target must say to be given the rule `context`."""
    return math.ceil(ENOUGH * asked)


def choose_rule(said: int, asked: int) -> FusionRule:
    """`fusion.context()` for a target that says enough of the facts, else `fusion.draft()`.

    Not `context(draft=True)`: where the gate opens the plug-in's draft would win, and the target's
    own conclusions from the fact, which `context` is chosen for, would be lost.

    Args:
      said: how many of the facts that its prompt told the target said.
      asked: how many it was asked for.
    """
    return context() if said >= needed(asked) else draft()


def choose_rules(ensemble: Ensemble, *, max_new_tokens: int = 20) -> list[RuleChoice]:
    """The rule for each target of an ensemble, by ten made-up facts of the package.

    A target reads each fact as the rule `context` tells it, and then the fact's question. It is
    asked in chat or in plain text, as the ensemble asks it. Nothing of the ensemble's own rule and
    edits counts.

    Args:
      ensemble: the ensemble.
      max_new_tokens: longest answer.
    """
    facts = load_records(demo_path("probe_facts.jsonl"))
    prompts = [told(fact.prompt, new_fact(fact.prompt, fact.target)) for fact in facts]
    answers = ensemble.answers_alone(prompts, max_new_tokens=max_new_tokens)
    return [
        _choice(target.name, texts, [fact.target for fact in facts])
        for target, texts in zip(ensemble.targets, answers, strict=True)
    ]


def _choice(target: str, answers: Sequence[str], facts: Sequence[str]) -> RuleChoice:
    said = sum(map(says, answers, facts))
    return RuleChoice(target, choose_rule(said, len(facts)), said, len(facts))
