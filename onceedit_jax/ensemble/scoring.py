"""Teacher-forced scores: the next token of each target at every answer token, before and after."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from onceedit_jax.data.records import Pair
from onceedit_jax.decoding.answers import View
from onceedit_jax.decoding.draft_reading import proposed_along
from onceedit_jax.decoding.draws import TAKEN
from onceedit_jax.decoding.known_states import KnownStates
from onceedit_jax.decoding.prefix_batching import states_after, tokens_after
from onceedit_jax.distributed.mesh import using
from onceedit_jax.ensemble.asked import Asked
from onceedit_jax.ensemble.beyond import as_told
from onceedit_jax.ensemble.decisions import decide_all
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.prompts import Prompt, check_prompts


@dataclasses.dataclass(frozen=True)
class TokenScores:
    """One target on one text: tokens of the gold answer, and what was predicted for each.

    Attributes:
      gold: `[T]` the answer's tokens.
      before: `[T]` argmax of the target alone, given the true prefix.
      after: `[T]` the fused system's token, given the true prefix.
    """

    gold: Int[np.ndarray, "tokens"]
    before: Int[np.ndarray, "tokens"]
    after: Int[np.ndarray, "tokens"]


@dataclasses.dataclass(frozen=True)
class Scored:
    """Teacher-forced scores of N texts.

    Attributes:
      alphas: `[N]`.
      targets: for each target, N `TokenScores`.
      losses: for each target, the gradient search's losses before it and after each step,
        `[decisions, steps + 1]`; None where nothing was searched.
    """

    alphas: Float[np.ndarray, "texts"]
    targets: list[list[TokenScores]]
    losses: list[Float[np.ndarray, "decisions steps_and_start"] | None]


def score(
    plugin: PreparedPlugin,
    targets: Sequence[PreparedTarget],
    pairs: Sequence[Pair],
    *,
    alphas: Float[np.ndarray, "texts"] | None = None,
) -> Scored:
    """Teacher-forced next tokens over each pair's answer, for every target at once.

    The text is `prompt + " " + target`; in chat it is the conversation up to the answer, and then
    the answer as the chat template puts it there. Each answer token is predicted from the true
    prefix, which the plug-in reads as it would itself write that text. What depends on the plug-in
    alone is computed once for all targets.

    Args:
      plugin: the prepared plug-in.
      targets: targets prepared for it.
      pairs: N prompts with their answers.
      alphas: `[N]`, the plug-in's weight for each prompt (default: by the gate). With given alphas
        no hop is taken, and what asks for more than the fact is drafted too.

    Raises:
      InputError: a prompt is empty.
    """
    prompts = [pair.prompt for pair in pairs]
    check_prompts(prompts)
    with using(plugin.mesh):
        plugin.recall.forget()
        asked = Asked.of(plugin, targets, prompts, alphas, TAKEN)
        named = np.where(asked.active, asked.edits, NOTHING)
        moved = asked.active | asked.changed
        texts = [[Text.of(pair, target) for pair in pairs] for target in targets]
        views = views_of(plugin, targets, asked.prompts, texts, moved, asked.edits)
        scored = []
        for target, own, view in zip(targets, texts, views, strict=True):
            weights = np.where(asked.speaks(target.rule), asked.alphas, 0)
            read = as_told(plugin, target.rule, asked.prompts, named, asked.beyond)
            told = [
                None if after == prompt else after
                for prompt, after in zip(prompts, read, strict=True)
            ]
            scored.append(_scored(plugin, target, own, told, view, weights, moved))
        plugin.recall.forget()
    tokens, losses = [each for each, _ in scored], [each for _, each in scored]
    return Scored(asked.alphas, tokens, losses)


@dataclasses.dataclass(frozen=True)
class Text:
    """A prompt and its answer in a target's tokens; the answer starts at `start`."""

    tokens: list[int]
    start: int

    @classmethod
    def of(cls, pair: Pair, target: PreparedTarget) -> "Text":
        """A pair, as a target is asked."""
        return cls(*target.format.encode_pair(pair.prompt, pair.target))

    @property
    def answer(self) -> list[int]:
        """The answer's tokens."""
        return self.tokens[self.start :]

    def told(self, target: PreparedTarget, prompt: Prompt) -> "Text":
        """The same answer after another prompt."""
        head = target.format.encode(prompt)
        return Text([*head, *self.answer], len(head))


def states_before_answers(
    params: Any, config: ModelConfig, texts: Sequence[Text], known: KnownStates | None = None
) -> Float[np.ndarray, "tokens hidden"]:
    """A model's states `[T, D]` before each of the T answer tokens, after the true ones.

    Arguments and errors are those of `states_after`; states that are `known` are not computed.
    """
    asked = [text for text in texts if text.answer]
    # The last token of an answer is not read.
    prefixes = [text.tokens[:-1] for text in asked]
    counts = [len(text.answer) for text in asked]
    found = [
        None if known is None else known.after(prefix, count)
        for prefix, count in zip(prefixes, counts, strict=True)
    ]
    missing = [i for i, states in enumerate(found) if states is None]
    left = [counts[i] for i in missing]
    read = states_after(params, config, [prefixes[i] for i in missing], left)
    parts = iter(np.split(read, np.cumsum(left)[:-1].astype(int)))
    return np.concatenate(
        [read[:0], *[next(parts) if states is None else states for states in found]]
    )


def expect(
    plugin: PreparedPlugin, targets: Sequence[PreparedTarget], pairs: Sequence[Pair]
) -> None:
    """Have the targets read answers along with their prompts, for a later call of `score`.

    It is of use within `plugin.recall.keeping`, where more prompts than a few are answered first.
    """
    for target in targets:
        known = plugin.recall.states(target.name)
        for pair in pairs:
            text = Text.of(pair, target)
            known.expect(text.tokens[: text.start], text.answer)


def _scored(
    plugin: PreparedPlugin,
    target: PreparedTarget,
    texts: Sequence[Text],
    told: Sequence[Prompt | None],
    view: View,
    alphas: Float[np.ndarray, "texts"],
    active: Bool[np.ndarray, "texts"],
) -> tuple[list[TokenScores], Float[np.ndarray, "decisions steps_and_start"] | None]:
    """A target on its texts, and its search's loss at each decision and step.

    `told` is what it reads in place of each prompt where it is fused; None for the same.
    """
    counts = [len(text.answer) for text in texts]
    model = target.target.model
    known = plugin.recall.states(target.name)
    states = states_before_answers(model.params, model.config, texts, known)
    fused = np.repeat(active, counts)
    # A trusted draft is taken as it is: its weight is 1.
    weights = np.repeat(np.where(plugin.trusted(target.rule, alphas), 1, alphas), counts)
    after_told = [
        text.told(target, prompt)
        for text, prompt, moved in zip(texts, told, active, strict=True)
        if moved and prompt is not None
    ]
    reads_more = np.array([prompt is not None for prompt in told], bool) & active
    anew = np.repeat(reads_more, counts)
    telling = states.copy()
    telling[anew] = states_before_answers(model.params, model.config, after_told)
    decided = decide_all(plugin, target, view, telling[fused], weights[fused])
    before = np.zeros(len(states), np.int32)
    before[fused] = decided.own
    # A target that has read the same has decided already, and its own token is known.
    untold = ~fused | anew
    before[untold] = tokens_after(
        model.params, model.config, states[untold], chunk=target.rule.batch_size
    )
    after = before.copy()
    after[fused] = decided.fused
    stops = np.cumsum(counts)
    tokens = [
        TokenScores(np.array(text.answer, np.int32), before[a:b], after[a:b])
        for text, a, b in zip(texts, stops - counts, stops, strict=True)
    ]
    return tokens, decided.losses


def views_of(
    plugin: PreparedPlugin,
    targets: Sequence[PreparedTarget],
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[Text]],
    active: Bool[np.ndarray, "texts"],
    edits: Int[np.ndarray, "texts"],
) -> list[View]:
    """What the plug-in contributes for each target, as the target's rule reads it."""
    views: list[View] = [{} for _ in targets]
    for reads, view_all in (("logits", _states), ("draft", _drafted)):
        places = [t for t, target in enumerate(targets) if target.rule.reads == reads]
        if not places:
            continue
        own = [targets[t] for t in places], [texts[t] for t in places]
        found = view_all(plugin, own[0], prompts, own[1], active, edits)
        for t, view in zip(places, found, strict=True):
            views[t] = view
    return views


def _states(
    plugin: PreparedPlugin,
    targets: Sequence[PreparedTarget],
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[Text]],
    active: Bool[np.ndarray, "texts"],
    edits: Int[np.ndarray, "texts"],
) -> list[View]:
    """The plug-in's states after every true prefix, for all targets from shared passes."""
    prefixes: list[tuple[int, ...]] = []
    owners: list[int] = []  # the text of each prefix
    counts = []
    read = plugin.as_read(prompts, edits)
    for target, target_texts in zip(targets, texts, strict=True):
        before = len(prefixes)
        for i in np.flatnonzero(active).tolist():
            text = target_texts[i]
            for end in range(text.start, len(text.tokens)):
                prefixes.append(tuple(target.bridge.cross(read[i], text.tokens[text.start : end])))
                owners.append(i)
        counts.append(len(prefixes) - before)
    states = plugin.plugin.states_after(prefixes, edits[owners])
    ends = np.cumsum(counts)
    return [{"states": states[end - n : end]} for n, end in zip(counts, ends, strict=True)]


def _drafted(
    plugin: PreparedPlugin,
    targets: Sequence[PreparedTarget],
    prompts: Sequence[Prompt],
    texts: Sequence[Sequence[Text]],
    active: Bool[np.ndarray, "texts"],
    edits: Int[np.ndarray, "texts"],
) -> list[View]:
    """What the drafts propose at every answer token, the true tokens fed to their readers."""
    chosen = np.flatnonzero(active).tolist()
    if not chosen:
        nothing = {"drafted": np.zeros(0, np.int32), "probability": np.zeros(0, np.float32)}
        return [nothing for _ in targets]
    asked = [prompts[i] for i in chosen], edits[chosen]
    readers = [target.reader(plugin, *asked, whole=False) for target in targets]
    answers = [[own[i].answer for i in chosen] for own in texts]
    views: list[View] = []
    for rows in proposed_along(readers, answers):
        steps = [step for row in rows for step in row]
        views.append(
            {
                "drafted": np.array([token for token, _ in steps], np.int32),
                "probability": np.array([chance for _, chance in steps], np.float32),
            }
        )
    return views
