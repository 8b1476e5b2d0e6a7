"""One edited plug-in and many targets as an object, over the functions `score` and `generate`."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from onceedit_jax.data.records import Pair
from onceedit_jax.decoding.options import GREEDY, SamplingSettings, Speculate
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble.generation import Answers, answer, answer_alone, generate
from onceedit_jax.ensemble.preparation import prepare_plugin, prepare_target
from onceedit_jax.ensemble.scoring import Scored, score
from onceedit_jax.ensemble.side import OnBlock
from onceedit_jax.ensemble.target import Target, with_distinct_names
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.gates.types import FittedGate, Gate
from onceedit_jax.models.layout import repays_unrolling
from onceedit_jax.text.prompts import Prompt


class Ensemble:
    """An edited plug-in with several target LLMs, which answer with its facts.

    Attributes:
      prepared_plugin: the plug-in with its rule and gate.
      prepared: the targets, prepared for it.
      chat: whether the targets are asked in chat; None where each is asked as its template allows.
      system: the system prompt of conversations that have none.
    """

    def __init__(
        self,
        plugin: EditedPlugin,
        targets: Sequence[Target],
        *,
        rule: FusionRule | Sequence[FusionRule] | None = None,
        gate: Gate | FittedGate | None = None,
        alpha_threshold: float | None = None,
        hops: int = 0,
        states: Sequence[Any] | None = None,
        unrolled: bool = False,
        chat: bool | None = None,
        system: str | None = None,
        speculate: Speculate = "off",
        mesh: Mesh | None = None,
        on_block: OnBlock = lambda what, done, total: None,
    ) -> None:
        """Prepare every pair. Tables that are in the cache are read from it.

        Args:
          plugin: the edited plug-in.
          targets: the LLMs to answer with the new facts.
          rule: the fusion rule (default: `fusion.draft()`), or one for each target.
          gate: the gate, fitted or not (default: the plug-in's `default_gate`).
          alpha_threshold: below it a target answers by itself, and the plug-in's steps are skipped
            (default: the gate's; 0 fuses wherever alpha is above 0, as the paper does).
          hops: how many inner phrases of a question may give way to the answers of edits, as in
            "the capital of X's country". It needs the gate `fact`.
          states: the rule's state for each pair, prepared elsewhere.
          unrolled: decode with unstacked layers: steps are faster and compilation is slower, so it
            is for a process that answers many prompts.
          chat: ask the targets in chat (True) or in plain text (False). None asks those in chat
            that have a chat template; `evaluate` then asks all of them in plain text.
          system: a system prompt for conversations that have none; it needs targets with a chat
            template.
          speculate: whether the plug-in drafts for what a target says alone to a single prompt: the
            same tokens in fewer passes. "off" (default), "auto" where it is small enough beside the
            target, or "on" beside any target. On several devices targets always write alone.
          mesh: how devices share the work (default: all of them share the rows of a batch).
          on_block: called with (model name, blocks done, all blocks) while tables are built.

        Raises:
          InputError: no targets, the same target twice, a number of states or of rules that differs
            from that of the targets, a rule and a gate that do not fit together, or chat for a
            target without a chat template.
        """
        if not targets:
            raise InputError("no targets given: expected at least one target LLM")
        if states is not None and len(states) != len(targets):
            raise InputError(f"{len(states)} states for {len(targets)} targets: give one for each")
        rules = [rule] * len(targets) if rule is None or isinstance(rule, FusionRule) else [*rule]
        if len(rules) != len(targets):
            raise InputError(f"{len(rules)} rules for {len(targets)} targets: give one for each")
        targets = with_distinct_names(targets)
        self.chat: bool | None = _chosen(chat, system)
        self.system: str | None = system
        self.prepared_plugin = prepare_plugin(
            plugin,
            rule=rules[0],
            gate=gate,
            alpha_threshold=alpha_threshold,
            hops=hops,
            mesh=mesh,
            unrolled=unrolled,
            on_block=on_block,
        )
        self.prepared = [
            prepare_target(
                self.prepared_plugin,
                target,
                rule=rules[i],
                state=None if states is None else states[i],
                unrolled=unrolled,
                chat=self.chat,
                system=system,
                speculate=speculate,
                on_block=on_block,
            )
            for i, target in enumerate(targets)
        ]

    @property
    def plugin(self) -> EditedPlugin:
        """The edited plug-in."""
        return self.prepared_plugin.plugin

    @property
    def targets(self) -> list[Target]:
        """The targets."""
        return [prepared.target for prepared in self.prepared]

    @property
    def rule(self) -> FusionRule:
        """The fusion rule; the first target's where they differ."""
        return self.prepared_plugin.rule

    @property
    def rules(self) -> list[FusionRule]:
        """The fusion rule of each target."""
        return [prepared.rule for prepared in self.prepared]

    @property
    def gate(self) -> FittedGate:
        """The gate, fitted to the plug-in."""
        return self.prepared_plugin.gate

    @property
    def threshold(self) -> float:
        """Alphas below it count as 0."""
        return self.prepared_plugin.threshold

    @property
    def hops(self) -> int:
        """How many inner phrases of a question may give way to the answers of edits."""
        return self.prepared_plugin.hops

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        return self.prepared_plugin.mesh

    def with_chat(self, chat: bool | None, *, system: str | None = None) -> "Ensemble":
        """This ensemble with its targets asked in another way; nothing else is prepared anew.

        Args:
          chat: in chat (True), in plain text (False), or in chat where there is a template (None).
          system: a system prompt for conversations that have none.

        Raises:
          InputError: chat or a system prompt for a target without a chat template.
        """
        other = copy.copy(self)
        other.chat, other.system = _chosen(chat, system), system
        other.prepared = [each.with_chat(other.chat, system=system) for each in self.prepared]
        return other

    def unrolled_for(self, steps: int) -> "Ensemble":
        """This ensemble, with unstacked layers in targets where they repay their compilation.

        The stacked layers are dropped, so that scoring with it compiles more slowly too.

        Args:
          steps: the decoding steps that are expected.
        """
        other = copy.copy(self)
        other.prepared = [
            each.unrolled() if repays_unrolling(each.target.model.params, steps) else each
            for each in self.prepared
        ]
        return other

    def alphas(self, prompts: Sequence[Prompt]) -> Float[np.ndarray, "prompts"]:
        """Alpha of each prompt, `[N]` float32.

        Raises:
          InputError: a prompt is empty.
        """
        return self.prepared_plugin.alphas(prompts)

    def score(self, pairs: Sequence[Pair]) -> Scored:
        """See `onceedit_jax.ensemble.scoring.score`."""
        return score(self.prepared_plugin, self.prepared, pairs)

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 20,
        sampling: SamplingSettings = GREEDY,
    ) -> Answers:
        """See `onceedit_jax.ensemble.generation.generate`."""
        pair = self.prepared_plugin, self.prepared
        return generate(*pair, prompts, max_new_tokens=max_new_tokens, sampling=sampling)

    def answers(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 20,
        sampling: SamplingSettings = GREEDY,
    ) -> list[list[str]]:
        """See `onceedit_jax.ensemble.generation.answer`."""
        pair = self.prepared_plugin, self.prepared
        return answer(*pair, prompts, max_new_tokens=max_new_tokens, sampling=sampling)

    def answers_alone(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int = 20,
        sampling: SamplingSettings = GREEDY,
    ) -> list[list[str]]:
        """See `onceedit_jax.ensemble.generation.answer_alone`."""
        return answer_alone(
            self.prepared, prompts, max_new_tokens=max_new_tokens, sampling=sampling
        )


def _chosen(chat: bool | None, system: str | None) -> bool | None:
    """A system prompt chooses chat."""
    return True if chat is None and system is not None else chat
