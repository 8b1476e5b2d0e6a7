"""Prompts as a call asks them: with their hops, and what the gate says."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from onceedit_jax.decoding.draws import Draws
from onceedit_jax.ensemble.beyond import asks_beyond
from onceedit_jax.ensemble.hops import Hop, follow, rewritten
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.fusion.types import FusionRule, leaves_out
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.text.prompts import Prompt

Alphas = Float[np.ndarray, "prompts"]


@dataclasses.dataclass(frozen=True)
class Asked:
    """Prompts, and what the gate says of them.

    Attributes:
      prompts: as the plug-in reads them, after their hops.
      hops: of each.
      alphas: of each.
      edits: the place of the edit that each asks for.
      active: those that are fused.
      beyond: of these, those that ask for more than the fact.
      draws: how the answers are drawn, if they are.
    """

    prompts: Sequence[Prompt]
    hops: list[list[Hop]]
    alphas: Alphas
    edits: Int[np.ndarray, "prompts"]
    active: Bool[np.ndarray, "prompts"]
    beyond: Bool[np.ndarray, "prompts"]
    draws: Draws

    @classmethod
    def of(
        cls,
        plugin: PreparedPlugin,
        targets: Sequence[PreparedTarget],
        prompts: Sequence[Prompt],
        alphas: Alphas | None,
        draws: Draws,
    ) -> "Asked":
        """Follow the hops and ask the gate.

        Args:
          plugin: the prepared plug-in.
          targets: those that are asked.
          prompts: N texts or conversations.
          alphas: `[N]`, in place of the gate's; then there are no hops, and none are `beyond`.
          draws: how the answers are drawn.
        """
        hops = follow(plugin, prompts) if alphas is None else [[] for _ in prompts]
        prompts = [rewritten(*each) for each in zip(prompts, hops, strict=True)]
        given = alphas is not None
        alphas, edits = plugin.judged(prompts, alphas, targets)
        active = plugin.active(alphas)
        beyond = np.zeros(len(prompts), bool)
        if not given:
            rules = [target.rule for target in targets]
            beyond = asks_beyond(plugin, rules, prompts, np.where(active, edits, NOTHING))
        return cls(prompts, hops, alphas, edits, active, beyond, draws)

    def speaks(self, rule: FusionRule) -> Bool[np.ndarray, "prompts"]:
        """Prompts that the plug-in speaks for; for other active ones the target is told at most."""
        if rule.reads == "nothing":
            return np.zeros(len(self.prompts), bool)
        return self.active & ~self.beyond if leaves_out(rule) else self.active

    @property
    def changed(self) -> Bool[np.ndarray, "prompts"]:
        """Prompts with hops."""
        return np.array([bool(hops) for hops in self.hops], bool)

    def at(self, chosen: Bool[np.ndarray, "prompts"]) -> tuple[list[Prompt], Draws]:
        """Some of the prompts, and how their answers are drawn."""
        places = np.flatnonzero(chosen).tolist()
        return [self.prompts[i] for i in places], self.draws.of(places)
