"""Prepares an edited plug-in and its targets: everything that many calls share."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Int

from onceedit_jax.decoding.answers import Writer
from onceedit_jax.decoding.draft_reading import DraftReader
from onceedit_jax.decoding.drafting import Drafter
from onceedit_jax.decoding.fused import Spelling
from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.decoding.options import Speculate
from onceedit_jax.decoding.speculation import Helper
from onceedit_jax.decoding.stopping import answer_stops
from onceedit_jax.distributed.mesh import data_mesh, using
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.gate_features import PromptReader
from onceedit_jax.editing.relation_reading import as_written
from onceedit_jax.ensemble.helping import helper_for
from onceedit_jax.ensemble.placement import placed, spread, spread_plugin
from onceedit_jax.ensemble.recall import Recall
from onceedit_jax.ensemble.rule_checks import check_rule
from onceedit_jax.ensemble.side import ModelSide, OnBlock
from onceedit_jax.ensemble.target import Target
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.draft_rule import draft
from onceedit_jax.fusion.types import FusionRule, tells_always
from onceedit_jax.gates.fitting import Verdicts
from onceedit_jax.gates.types import NOTHING, FittedGate, Gate
from onceedit_jax.gates.weight_token import apply_threshold
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.relative.build import TransferHealth
from onceedit_jax.text.bridge import Bridge
from onceedit_jax.text.prompts import (
    Prompt,
    PromptFormat,
    check_prompts,
    plain_text,
    prompt_format,
)

MOST_PIECES = 4  # plug-in tokens that a target token is spelled with inside a compiled loop


@dataclasses.dataclass(frozen=True)
class PreparedPlugin:
    """An edited plug-in with a rule and a gate, laid over its devices.

    Attributes:
      plugin: the plug-in.
      rule: the fusion rule of targets that are prepared without one of their own.
      gate: the gate, fitted to this plug-in.
      threshold: alphas below it count as 0: the target answers by itself.
      mesh: the devices.
      side: the plug-in as rules see it while they are prepared.
      decoding_params: its parameters in the layout that it decodes with.
      drafter: makes and remembers its drafts.
      recall: of drafts and of the gate's verdicts.
      reader: reads prompts for the gate.
      hops: how many inner phrases of a question may give way to the answers of edits.
    """

    plugin: EditedPlugin
    rule: FusionRule
    gate: FittedGate
    threshold: float
    mesh: Mesh
    side: ModelSide
    decoding_params: Any
    drafter: Drafter
    recall: Recall
    reader: PromptReader
    hops: int = 0

    def writer(self, edits: Int[np.ndarray, "prompts"]) -> Writer:
        """The plug-in as a model that writes, for prompts that ask for these edits."""
        plugin, form = self.plugin, PromptFormat(self.plugin.tokenizer)
        chosen = plugin.adapters_of(edits)
        return Writer(self.decoding_params, plugin.config, form, plugin.adapters, chosen)

    def verdicts(self, prompts: Sequence[Prompt]) -> Verdicts:
        """Alpha of each prompt by the gate, and the edit that it asks for.

        Of a conversation the gate reads what the user says last.

        Raises:
          InputError: a prompt is empty.
        """
        check_prompts(prompts)
        with using(self.mesh):
            judge = partial(self.reader.verdicts, self.gate.gate, self.gate.state)
            return self.recall.verdicts([plain_text(prompt) for prompt in prompts], judge)

    def alphas(self, prompts: Sequence[Prompt]) -> Float[np.ndarray, "batch"]:
        """Alpha of each prompt by the gate, `[N]` float32; raises what `verdicts` raises."""
        return self.verdicts(prompts).alphas

    def judged(
        self,
        prompts: Sequence[Prompt],
        alphas: Float[np.ndarray, "batch"] | None,
        targets: Sequence["PreparedTarget"],
    ) -> Verdicts:
        """The gate's verdicts, with given alphas in place of its own.

        With given alphas the gate is asked only if a target always reads the edit, or if edits
        are in different adapters.
        """
        needed = self.plugin.routes or any(tells_always(target.rule) for target in targets)
        if alphas is not None and not needed:
            return Verdicts(alphas, np.full(len(prompts), NOTHING, np.int32))
        verdicts = self.verdicts(prompts)
        return verdicts if alphas is None else verdicts._replace(alphas=alphas)

    def as_read(self, prompts: Sequence[Prompt], edits: Int[np.ndarray, "prompts"]) -> list[str]:
        """The prompts as the plug-in reads them: as their edits are written.

        A subject is called as its edit calls it, since the plug-in has learnt the edit under that
        name: "tesla motors" is Tesla Motors, and an alias gives way. A question has its mark.

        Args:
          prompts: N texts or conversations.
          edits: `[N]`, the place of the edit that each asks for, `NOTHING` for none.
        """
        texts = [plain_text(prompt) for prompt in prompts]
        if self.reader.relations is None:
            return texts
        subjects, entries = self.reader.relations.subjects, self.plugin.info.edits
        return [
            text if edit < 0 else as_written(entries[edit].record(edit), text, subjects)
            for text, edit in zip(texts, edits.tolist(), strict=True)
        ]

    def active(self, alphas: Float[np.ndarray, "batch"]) -> Bool[np.ndarray, "batch"]:
        """Prompts that are fused; the target answers all others by itself."""
        return np.asarray(apply_threshold(jnp.asarray(alphas), self.threshold)) > 0

    def trusted(
        self, rule: FusionRule, alphas: Float[np.ndarray, "batch"]
    ) -> Bool[np.ndarray, "batch"]:
        """Where a draft is the answer, unchecked."""
        if not rule.unchecked:
            return np.zeros(len(alphas), bool)
        assert self.gate.trust_threshold is not None
        return alphas >= self.gate.trust_threshold


@dataclasses.dataclass(frozen=True)
class PreparedTarget:
    """A target LLM, ready to be fused with one plug-in.

    Attributes:
      target: the target.
      rule: its fusion rule.
      state: the rule's state for this pair.
      health: of the plug-in's and the target's relative tables; None where the rule has none or
        the state was given.
      format: how the target is asked: in chat or in plain text.
      bridge: from the target's tokens to the plug-in's.
      stops: tokens that end the target's answers.
      decoding_params: its parameters in the layout that it decodes with.
      mesh: the devices.
      helper: the plug-in, which may draft for what the target says alone; None for "off".
      speculate: whether it does, see `may_help`.
    """

    target: Target
    rule: FusionRule
    state: Any
    health: tuple[TransferHealth, TransferHealth] | None
    format: PromptFormat
    bridge: Bridge
    stops: StopTokens
    decoding_params: Any
    mesh: Mesh
    helper: Helper | None
    speculate: Speculate

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    @property
    def writer(self) -> Writer:
        """The target as a model that writes."""
        return Writer(self.decoding_params, self.target.model.config, self.format)

    @cached_property
    def spelling(self) -> Spelling:
        """The target's tokens as the plug-in spells them; padding rows have none."""
        tokens, counts = self.bridge.spellings(MOST_PIECES)
        padding = self.target.model.config.vocab_size - len(counts)
        spelling = Spelling(jnp.pad(tokens, ((0, padding), (0, 0))), jnp.pad(counts, (0, padding)))
        laid: Spelling = placed(self.mesh, spelling)
        return laid

    def with_chat(self, chat: bool | None, *, system: str | None = None) -> "PreparedTarget":
        """This target, asked in another way; nothing else is prepared anew.

        Arguments and errors are those of `prepare_target`.
        """
        tokenizer, vocab_size = self.target.tokenizer, self.target.model.config.vocab_size
        form = prompt_format(tokenizer, chat=chat, system=system, name=self.name)
        if (form.chat, form.system) == (self.format.chat, self.format.system):
            return self
        return dataclasses.replace(
            self,
            format=form,
            bridge=dataclasses.replace(self.bridge, spaced=form.spaced),
            stops=answer_stops(form, vocab_size),
        )

    def unrolled(self) -> "PreparedTarget":
        """This target with unstacked layers alone: faster steps, slower compilation."""
        params = unstack_layers(self.target.model.params)
        model = dataclasses.replace(self.target.model, params=params)
        target = dataclasses.replace(self.target, model=model)
        return dataclasses.replace(self, target=target, decoding_params=params)

    def reader(
        self,
        plugin: PreparedPlugin,
        prompts: Sequence[Prompt],
        edits: Int[np.ndarray, "prompts"],
        *,
        whole: bool = True,
    ) -> DraftReader:
        """What the plug-in's drafts propose to this target, for prompts that ask for some edits."""
        return DraftReader(
            plugin.drafter,
            self.target.tokenizer,
            plugin.as_read(prompts, edits),
            adapters=plugin.plugin.adapters_of(edits).tolist(),
            spaced=self.format.spaced,
            whole=whole,
        )

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """Answers in tokens as texts."""
        return self.writer.texts(answers)


def prepare_plugin(
    plugin: EditedPlugin,
    *,
    rule: FusionRule | None = None,
    gate: Gate | FittedGate | None = None,
    alpha_threshold: float | None = None,
    hops: int = 0,
    mesh: Mesh | None = None,
    unrolled: bool = False,
    on_block: OnBlock = lambda what, done, total: None,
) -> PreparedPlugin:
    """Lay a plug-in over its devices and fit its gate.

    Args:
      plugin: the edited plug-in.
      rule: the fusion rule (default: `fusion.draft()`).
      gate: the gate, fitted or not (default: the plug-in's `default_gate`).
      alpha_threshold: below it a target answers by itself, and the plug-in's steps are skipped
        (default: the gate's; 0 fuses wherever alpha is above 0, as the paper does).
      hops: how many inner phrases of a question may give way to the answers of edits.
      mesh: the devices (default: all of them share the rows of a batch).
      unrolled: decode with unstacked layers: faster steps, slower compilation.
      on_block: called while tables are built, see `ModelSide`.

    Raises:
      InputError: a threshold that is not a weight, a number of hops below 0, or a rule or hops that
        need what the gate does not give.
    """
    rule = draft() if rule is None else rule
    gate = plugin.default_gate if gate is None else gate
    fitted = gate if isinstance(gate, FittedGate) else plugin.fitted(gate)
    threshold = fitted.threshold if alpha_threshold is None else alpha_threshold
    if not 0 <= threshold <= 1:
        raise InputError(f"alpha_threshold={threshold}: expected a weight from 0 to 1")
    check_rule(rule, fitted)
    if plugin.routes and fitted.gate.means is None:
        raise InputError(
            f"the edits of {plugin.name} are in several adapters, and the gate {fitted.name} does "
            "not know which edit a prompt asks for; use the gate fact"
        )
    if hops < 0 or (hops and "relation" not in fitted.gate.reads):
        raise InputError(
            f"hops={hops} with the gate {fitted.name}: expected 0, or 1 or more with the gate "
            "fact, which knows what a phrase asks for"
        )
    mesh = data_mesh() if mesh is None else mesh
    side = ModelSide.of_plugin(plugin, on_block)
    whole = {"gate": placed(mesh, plugin.gate), "memory": placed(mesh, plugin.memory)}
    laid = dataclasses.replace(spread_plugin(mesh, plugin), **whole)
    fitted = dataclasses.replace(fitted, state=placed(mesh, fitted.state))
    params = unstack_layers(laid.params) if unrolled else laid.params
    drafter = Drafter(params, laid.config, plugin.tokenizer, laid.adapters)
    return PreparedPlugin(
        laid,
        rule,
        fitted,
        threshold,
        mesh,
        side,
        params,
        drafter,
        Recall(drafter),
        _reader(mesh, plugin, laid),
        hops,
    )


def _reader(mesh: Mesh, plugin: EditedPlugin, laid: EditedPlugin) -> PromptReader:
    """Reads prompts with the plug-in's parameters as they lie over the devices."""
    relations = plugin.reader.relations
    if relations is not None:
        relations = dataclasses.replace(relations, params=placed(mesh, relations.params))
    return PromptReader(laid.params, laid.gate, laid.config, laid.tokenizer, relations)


def prepare_target(
    plugin: PreparedPlugin,
    target: Target,
    *,
    rule: FusionRule | None = None,
    state: Any = None,
    unrolled: bool = False,
    chat: bool | None = None,
    system: str | None = None,
    speculate: Speculate = "off",
    on_block: OnBlock = lambda what, done, total: None,
) -> PreparedTarget:
    """Lay a target over the plug-in's devices, and prepare the rule for the pair.

    Args:
      plugin: the prepared plug-in.
      target: the target.
      rule: its fusion rule (default: the plug-in's).
      state: the rule's state for this pair, prepared elsewhere (default: prepared here).
      unrolled: decode with unstacked layers.
      chat: ask the target in chat (True) or in plain text (False); None asks it in chat if it has a
        chat template.
      system: a system prompt for conversations that have none.
      speculate: whether the plug-in drafts for what the target says alone, see `may_help`.
      on_block: called while tables are built, see `ModelSide`.

    Raises:
      InputError: chat or a system prompt for a target without a chat template, or a rule that does
        not fit the plug-in's gate.
    """
    rule = plugin.rule if rule is None else rule
    check_rule(rule, plugin.gate)
    form = prompt_format(target.tokenizer, chat=chat, system=system, name=target.name)
    health = None
    if state is None:
        sides = plugin.side, ModelSide.of_model(target, on_block)
        sides[0].health = None
        state = rule.prepare(*sides)
        if sides[0].health is not None and sides[1].health is not None:
            health = sides[0].health, sides[1].health
    laid = dataclasses.replace(target, model=spread(plugin.mesh, target.model))
    params = laid.model.params
    return PreparedTarget(
        laid,
        rule,
        placed(plugin.mesh, state),
        health,
        form,
        Bridge(target.tokenizer, plugin.plugin.tokenizer, form.spaced),
        answer_stops(form, target.model.config.vocab_size),
        unstack_layers(params) if unrolled else params,
        plugin.mesh,
        None
        if speculate == "off"
        else helper_for(plugin.decoding_params, plugin.plugin, laid.model.config),
        speculate,
    )
