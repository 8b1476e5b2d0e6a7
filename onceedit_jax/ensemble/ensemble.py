"""One edited plug-in and many targets: teacher-forced scores and greedy answers (paper, 3.3)."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from onceedit_jax.data.records import Pair
from onceedit_jax.decoding.answers import (
    PROMPTS,
    View,
    Writer,
    checked_answers,
    fused_answers,
    own_answers,
    trusted_answers,
)
from onceedit_jax.decoding.drafting import Drafter, DraftReader
from onceedit_jax.decoding.fused import Spelling
from onceedit_jax.decoding.prefix_batching import CHUNK, head_of, padded, states_after, tokens_after
from onceedit_jax.decoding.stopping import answer_endings
from onceedit_jax.distributed.mesh import data_mesh, replicate, to_host, using
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble.pair import (
    OnBlock,
    Side,
    Target,
    build_transfer,
    pair_spelling,
    told_apart,
)
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.rules import (
    PRESETS,
    FusionInputs,
    FusionSettings,
    Transfer,
    fusion_rule,
)
from onceedit_jax.gates.token import apply_threshold
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, unembed, unstack_layers
from onceedit_jax.models.sharding import place
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.relative.build import Kind, TransferHealth
from onceedit_jax.text.bridge import Bridge

M = TypeVar("M", EditedPlugin, LoadedModel)
P = ParamSpec("P")
R = TypeVar("R")

EXACT_CHUNK = 256  # an exact table costs one pass whatever the number of decisions


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """One target on one text: tokens of the gold answer, and what was predicted for each.

    Attributes:
      gold: `[T]` the answer's tokens.
      before: `[T]` argmax of the target alone, given the true prefix.
      after: `[T]` the fused system's token, given the true prefix.
    """

    gold: NDArray[np.int32]
    before: NDArray[np.int32]
    after: NDArray[np.int32]


@dataclasses.dataclass(frozen=True)
class Scored:
    """Teacher-forced scores of N texts: alpha `[N]`, and for each target N `TokenScores`.

    `losses` `[decisions, steps + 1]` is the gradient search's before it and after each step, for
    each target that searched.
    """

    alphas: NDArray[np.float32]
    targets: list[list[TokenScores]]
    losses: list[NDArray[np.float32] | None]


@dataclasses.dataclass(frozen=True)
class Answers:
    """Greedy answers to N prompts: alpha `[N]`, and each target's texts before and after."""

    alphas: NDArray[np.float32]
    before: list[list[str]]
    after: list[list[str]]


class Decision(NamedTuple):
    """Next tokens `[B]` of the target alone and fused; the search's losses if it searched."""

    own: Any  # [B] int32
    fused: Any  # [B] int32
    losses: Any  # [B, steps + 1] float32, or None


@partial(jax.jit, static_argnames=("settings", "plugin_config", "target_config"))
def decide(
    plugin_params: Params,
    target_params: Params,
    transfer: Transfer,
    view: View,
    target_states: jax.Array,
    alpha: jax.Array,
    *,
    settings: FusionSettings,
    plugin_config: ModelConfig,
    target_config: ModelConfig,
) -> Decision:
    """From both models' view of the same text, `[B, ...]`, and alpha `[B]` to the next tokens."""
    states = view.get("states")
    inputs = FusionInputs(
        None if states is None else unembed(plugin_params, plugin_config, states),
        unembed(target_params, target_config, target_states),
        alpha,
        view.get("drafted"),
        view.get("probability"),
    )
    step = fusion_rule(settings)(inputs, transfer)
    return Decision(most_likely(inputs.target_logits), step.tokens, step.losses)


def _over_the_mesh(
    method: Callable[Concatenate["Ensemble", P], R],
) -> Callable[Concatenate["Ensemble", P], R]:
    """What a method computes is laid over its ensemble's mesh."""

    @wraps(method)
    def laid_out(self: "Ensemble", *args: P.args, **options: P.kwargs) -> R:
        with using(self.mesh):
            return method(self, *args, **options)

    return laid_out


class Ensemble:
    """An edited plug-in that speaks through several target LLMs.

    What depends on the plug-in alone (alpha, its states after shared prefixes) is computed once,
    for however many targets.
    """

    def __init__(
        self,
        plugin: EditedPlugin,
        targets: Sequence[Target],
        *,
        fusion: str | FusionSettings | None = None,
        alpha_threshold: float | None = None,
        table: Kind | None = None,
        transfers: Sequence[Transfer] | None = None,
        allow_lossy: bool = False,
        unrolled: bool = False,
        mesh: Mesh | None = None,
        on_block: OnBlock = lambda what, done, total: None,
    ) -> None:
        """Prepare every pair; tables come from the cache where they are there.

        Args:
          plugin: the edited plug-in.
          targets: the LLMs that shall answer with the new facts.
          fusion: a preset's name or settings (default: the artifact's rule).
          alpha_threshold: under it a target answers by itself, and the plug-in's steps are
            skipped (default: the artifact's for this kind of gate; 0 fuses wherever alpha is
            above 0, as the paper does).
          table: kind of the relative tables (default: `topk`, or `exact` for `deepen`'s
            normalisation, whose rows are too even for k entries).
          transfers: what the rule needs of each pair, built elsewhere (`build_transfer`).
          allow_lossy: take top-k tables that hold under .9 of p R.
          unrolled: decode with unstacked layers: faster a step, slower to compile
            (docs/models.md), so for a process that keeps answering.
          mesh: how devices share the work (default: all of them the rows of a batch).
          on_block: told about tables being built.

        Raises:
          InputError: for an unknown preset, no targets, two that results could not tell apart,
            another number of transfers, a threshold that is no weight, or a kind of table for a
            rule that has none.
        """
        if not targets:
            raise InputError("no targets given: expected at least one target LLM")
        if transfers is not None and len(transfers) != len(targets):
            raise InputError(f"{len(transfers)} transfers for {len(targets)} targets: one for each")
        if fusion is None:
            fusion = str(plugin.info["rule"]["fusion"])
        if isinstance(fusion, str):
            if fusion not in PRESETS:
                raise InputError(f"fusion {fusion!r}: expected one of {', '.join(PRESETS)}")
            fusion = PRESETS[fusion]
        if alpha_threshold is None:
            fixed = fusion.weight == "fixed"
            alpha_threshold = 0.0 if fixed else plugin.alpha_threshold(fusion.gate)
        if not 0 <= alpha_threshold <= 1:
            raise InputError(f"alpha_threshold={alpha_threshold}: expected a weight from 0 to 1")
        if table is not None and fusion.proposal != "relative":
            raise InputError(
                f"table={table} is a kind of relative table, which proposal={fusion.proposal} has "
                "none of; leave it out, or set proposal=relative"
            )
        self.threshold, self.settings = alpha_threshold, fusion
        self.mesh = data_mesh() if mesh is None else mesh
        if table is None:
            table = "exact" if fusion.normalization == "deepen" else "topk"
        self._chunk = EXACT_CHUNK if table == "exact" else CHUNK
        whole = {"gate": self._placed(plugin.gate), "memory": self._placed(plugin.memory)}
        self.plugin = dataclasses.replace(self._spread(plugin), **whole)
        self.targets = [
            dataclasses.replace(target, model=self._spread(target.model))
            for target in told_apart(targets)
        ]
        layout = unstack_layers if unrolled else lambda params: params
        self._decoding_plugin = layout(self.plugin.params)
        self._drafter = Drafter(self._decoding_plugin, self.plugin.config, plugin.tokenizer)
        self._decoding_targets = [layout(target.model.params) for target in self.targets]
        self._endings = [answer_endings(t.tokenizer, t.model.config.vocab_size) for t in targets]
        self._bridges = [Bridge(target.tokenizer, plugin.tokenizer) for target in targets]
        self._spellings: dict[int, Spelling] = {}
        self._transfers: list[Transfer] = []
        self.health: list[tuple[TransferHealth, TransferHealth] | None] = []
        side = Side.of_plugin(plugin)
        for t, target in enumerate(targets):
            if transfers is not None:
                self._transfers.append(self._placed(transfers[t]))
                self.health.append(None)
                continue
            transfer, health = build_transfer(
                side,
                Side.of_model(target),
                fusion,
                kind=table,
                allow_lossy=allow_lossy,
                on_block=on_block,
            )
            self._transfers.append(self._placed(transfer))
            self.health.append(health)

    @_over_the_mesh
    def alphas(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Alpha of each prompt, `[N]`: the fixed weight, or what the gate says.

        Raises:
          InputError: a prompt is empty.
        """
        _check_prompts(prompts)
        if self.settings.weight == "fixed":
            return np.full(len(prompts), self.settings.fixed_alpha, np.float32)
        return self.plugin.alphas(prompts, self.settings.gate)

    @_over_the_mesh
    def score(self, pairs: Sequence[Pair]) -> Scored:
        """Teacher-forced next tokens over each pair's answer, for every target at once.

        The text is `prompt + " " + target`; each answer token is predicted from the true prefix,
        which the plug-in reads as it would itself write that text.

        Raises:
          InputError: a prompt is empty.
        """
        self._drafter.forget()
        alphas = self.alphas([pair.prompt for pair in pairs])
        active = self._active(alphas)
        texts = [[_Text.of(pair, target) for pair in pairs] for target in self.targets]
        if self.settings.proposal == "draft":
            views = [self._drafted(t, pairs, texts[t], active) for t in range(len(texts))]
        else:
            views = self._states(pairs, texts, active)
        scored = [
            self._scored(t, target_texts, view, alphas, active)
            for t, (target_texts, view) in enumerate(zip(texts, views, strict=True))
        ]
        return Scored(alphas, [tokens for tokens, _ in scored], [losses for _, losses in scored])

    @_over_the_mesh
    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 20) -> Answers:
        """Greedy answers of every target, alone and fused.

        An answer ends at the end token, at a newline or after `max_new_tokens`. Prompts under the
        threshold are answered by the target alone, without a step of the plug-in.

        Raises:
          InputError: a prompt is empty, or an answer shall have no token.
        """
        self._drafter.forget()
        before = self.answers_alone(prompts, max_new_tokens=max_new_tokens)
        alphas = self.alphas(prompts)
        active = self._active(alphas)
        after = []
        for t, texts in enumerate(before):
            fused = iter(self._fused_answers(t, prompts, alphas, active, max_new_tokens))
            after.append(
                [next(fused) if a else text for a, text in zip(active, texts, strict=True)]
            )
        return Answers(alphas, before, after)

    @_over_the_mesh
    def answers(self, prompts: Sequence[str], *, max_new_tokens: int = 20) -> list[list[str]]:
        """Each target's fused answers to N prompts, without asking what it said before.

        Raises:
          InputError: a prompt is empty, or an answer shall have no token.
        """
        _check_length(max_new_tokens)
        self._drafter.forget()
        alphas = self.alphas(prompts)
        active = self._active(alphas)
        rest = [prompts[i] for i in np.flatnonzero(~active).tolist()]
        found = []
        for t in range(len(self.targets)):
            fused = iter(self._fused_answers(t, prompts, alphas, active, max_new_tokens))
            alone = iter(self._own_answers(t, rest, max_new_tokens))
            found.append([next(fused if speaks else alone) for speaks in active])
        return found

    @_over_the_mesh
    def answers_alone(self, prompts: Sequence[str], *, max_new_tokens: int = 20) -> list[list[str]]:
        """Each target's answers to N prompts, as if there were no plug-in.

        Raises:
          InputError: a prompt is empty, or an answer shall have no token.
        """
        _check_length(max_new_tokens)
        _check_prompts(prompts)
        return [self._own_answers(t, prompts, max_new_tokens) for t in range(len(self.targets))]

    def _scored(
        self,
        t: int,
        texts: Sequence["_Text"],
        view: View,
        alphas: NDArray[np.float32],
        active: NDArray[np.bool_],
    ) -> tuple[list[TokenScores], NDArray[np.float32] | None]:
        """Target t on its texts, and its search's loss at each decision and step."""
        counts = [len(text.tokens) - text.start for text in texts]
        prefixes = [
            tuple(text.tokens[:end])
            for text in texts
            for end in range(text.start, len(text.tokens))
        ]
        model = self.targets[t].model
        states = states_after(model.params, model.config, prefixes)
        fused = np.repeat(active, counts)
        # Where a draft is trusted it has the whole say.
        weights = np.repeat(np.where(self._trusted(alphas), 1, alphas), counts)
        decided = self._decided(t, view, states[fused], weights[fused])
        before = np.zeros(len(states), np.int32)
        alone = tokens_after(model.params, model.config, states[~fused], chunk=self._chunk)
        before[fused], before[~fused] = decided.own, alone
        after = before.copy()
        after[fused] = decided.fused
        stops = np.cumsum(counts)
        tokens = [
            TokenScores(np.array(text.tokens[text.start :], np.int32), before[a:b], after[a:b])
            for text, a, b in zip(texts, stops - counts, stops, strict=True)
        ]
        return tokens, decided.losses

    def _active(self, alphas: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where the plug-in has a say; elsewhere the target's logits pass through."""
        return np.asarray(apply_threshold(jnp.asarray(alphas), self.threshold)) > 0

    def _trusted(self, alphas: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Where the draft is taken as it is."""
        if not self.settings.trust:
            return np.zeros(len(alphas), bool)
        return alphas >= self.plugin.trust_threshold(self.settings.gate)

    def _states(
        self, pairs: Sequence[Pair], texts: Sequence[Sequence["_Text"]], active: NDArray[np.bool_]
    ) -> list[View]:
        """The plug-in's states after every true prefix, for all targets from shared passes."""
        wanted: list[tuple[int, ...]] = []
        counts = []
        for bridge, target_texts in zip(self._bridges, texts, strict=True):
            before = len(wanted)
            for i in np.flatnonzero(active).tolist():
                text, prompt = target_texts[i], pairs[i].prompt
                for end in range(text.start, len(text.tokens)):
                    wanted.append(tuple(bridge.cross(prompt, text.tokens[text.start : end])))
            counts.append(len(wanted) - before)
        states = states_after(self.plugin.params, self.plugin.config, wanted)
        ends = np.cumsum(counts)
        return [{"states": states[end - n : end]} for n, end in zip(counts, ends, strict=True)]

    def _drafted(
        self, t: int, pairs: Sequence[Pair], texts: Sequence["_Text"], active: NDArray[np.bool_]
    ) -> View:
        """What the drafts propose at every answer token, the true tokens fed to their reader."""
        chosen = np.flatnonzero(active).tolist()
        if not chosen:
            return {"drafted": np.zeros(0, np.int32), "probability": np.zeros(0, np.float32)}
        answers = [texts[i].tokens[texts[i].start :] for i in chosen]
        reader = self._reader(t, [pairs[i].prompt for i in chosen], whole=False)
        # All texts go on together, so that drafts are made in whole batches.
        steps = [
            reader.view([answer[: min(step, len(answer) - 1)] for answer in answers])
            for step in range(max(len(answer) for answer in answers))
        ]
        table = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
        return {
            name: np.concatenate([column[: len(a), i] for i, a in enumerate(answers)])
            for name, column in table.items()
        }

    def _reader(self, t: int, prompts: Sequence[str], *, whole: bool = True) -> DraftReader:
        return DraftReader(self._drafter, self.targets[t].tokenizer, prompts, whole=whole)

    def _own_answers(self, t: int, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answers of target t alone."""
        texts: list[str] = []
        for start in range(0, len(prompts), PROMPTS):
            group = prompts[start : start + PROMPTS]
            found = own_answers(
                self._writer(t), group, self._endings[t], max_new_tokens=max_new_tokens
            )
            texts += self._read(t, found)
        return texts

    def _fused_answers(
        self,
        t: int,
        prompts: Sequence[str],
        alphas: NDArray[np.float32],
        active: NDArray[np.bool_],
        max_new_tokens: int,
    ) -> list[str]:
        """Fused answers of target t to the active prompts among all."""
        texts: dict[int, str] = {}
        trusted = np.flatnonzero(active & self._trusted(alphas)).tolist()
        if trusted:
            group, tokenizer = [prompts[i] for i in trusted], self.targets[t].tokenizer
            drafts = trusted_answers(
                tokenizer, group, self._reader(t, group), max_new_tokens=max_new_tokens
            )
            texts.update(zip(trusted, self._read(t, drafts), strict=True))
        chosen = [i for i in np.flatnonzero(active).tolist() if i not in texts]
        for start in range(0, len(chosen), PROMPTS):
            places = chosen[start : start + PROMPTS]
            group, weights = [prompts[i] for i in places], alphas[places]
            if self.settings.proposal == "draft":
                found = self._checked(t, group, weights, max_new_tokens)
            else:
                found = fused_answers(
                    Writer(self._decoding_plugin, self.plugin.config, self.plugin.tokenizer),
                    self._writer(t),
                    group,
                    weights,
                    self._endings[t],
                    self._transfers[t],
                    self._spelling(t),
                    self.settings,
                    max_new_tokens=max_new_tokens,
                )
            texts.update(zip(places, self._read(t, found), strict=True))
        return [texts[i] for i in sorted(texts)]

    def _checked(
        self, t: int, prompts: Sequence[str], alphas: NDArray[np.float32], max_new_tokens: int
    ) -> list[list[int]]:
        """Answers from drafts that target t checks."""

        def next_tokens(view: View, states: Any, rows: NDArray[np.int32]) -> NDArray[np.int32]:
            return np.asarray(self._decided(t, view, states, alphas[rows]).fused)

        reader = self._reader(t, prompts)
        return checked_answers(
            self._writer(t), prompts, reader, next_tokens, max_new_tokens=max_new_tokens
        )

    def _writer(self, t: int) -> Writer:
        target = self.targets[t]
        return Writer(self._decoding_targets[t], target.model.config, target.tokenizer)

    def _spelling(self, t: int) -> Spelling:
        if t not in self._spellings:
            target = self.targets[t]
            spelling = pair_spelling(
                self.plugin.tokenizer, target.tokenizer, target.model.config.vocab_size
            )
            self._spellings[t] = self._placed(spelling)
        return self._spellings[t]

    def _read(self, t: int, answers: list[list[int]]) -> list[str]:
        tokenizer = self.targets[t].tokenizer
        return [tokenizer.decode(answer, continuation=True).strip() for answer in answers]

    def _decided(self, t: int, view: View, target_states: Any, alphas: Any) -> Decision:
        """`decide` for any number of texts, in chunks."""
        nothing = np.zeros(0, np.int32)
        own, fused, losses = [nothing], [nothing], []
        for start in range(0, len(alphas), self._chunk):
            rows = slice(start, start + self._chunk)
            alpha = alphas[rows]
            step = decide(
                head_of(self.plugin.params),
                head_of(self.targets[t].model.params),
                self._transfers[t],
                {name: padded(self.mesh, array[rows]) for name, array in view.items()},
                padded(self.mesh, target_states[rows]),
                padded(self.mesh, alpha),
                settings=self.settings,
                plugin_config=self.plugin.config,
                target_config=self.targets[t].model.config,
            )
            own.append(to_host(step.own)[: len(alpha)])
            fused.append(to_host(step.fused)[: len(alpha)])
            if step.losses is not None:
                losses.append(to_host(step.losses)[: len(alpha)])
        return Decision(
            np.concatenate(own), np.concatenate(fused), np.concatenate(losses) if losses else None
        )

    def _spread(self, model: M) -> M:
        """A model whose parameters lie over the mesh."""
        if self.mesh.size > 1 or jax.local_device_count() > 1:
            params, config = place(self.mesh, model.params, model.config)
            return dataclasses.replace(model, params=params, config=config)
        return model

    def _placed(self, tree: Any) -> Any:
        return replicate(self.mesh, tree) if self.mesh.size > 1 else tree


@dataclasses.dataclass(frozen=True)
class _Text:
    """A pair in a target's tokens; the answer starts at `start`."""

    tokens: list[int]
    start: int

    @classmethod
    def of(cls, pair: Pair, target: Target) -> "_Text":
        tokens, start = target.tokenizer.encode_pair(pair.prompt, pair.target)
        return cls(tokens, start)


def _check_length(max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: expected an answer of 1 token or more")


def _check_prompts(prompts: Sequence[str]) -> None:
    """Refuse what no model can go on with.

    Raises:
      InputError: naming the first prompt that is empty.
    """
    for i, prompt in enumerate(prompts):
        if not prompt:
            raise InputError(f"prompt {i + 1} of {len(prompts)} is empty; expected a text to go on")
