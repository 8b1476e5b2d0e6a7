"""Answers of every target: alone, fused, and both."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from onceedit_jax.decoding.answers import (
    PROMPTS,
    View,
    fused_answers,
    own_tokens,
    share_a_batch,
)
from onceedit_jax.decoding.checked_drafts import checked_answers, trusted_answers
from onceedit_jax.decoding.draws import TAKEN, Draws
from onceedit_jax.decoding.known_states import KnownStates
from onceedit_jax.decoding.options import GREEDY, SamplingSettings
from onceedit_jax.decoding.speculation import helped_answer
from onceedit_jax.decoding.stopping import text_of, text_stops
from onceedit_jax.distributed.mesh import using
from onceedit_jax.ensemble.asked import Alphas, Asked
from onceedit_jax.ensemble.beyond import as_told
from onceedit_jax.ensemble.decisions import decide_all
from onceedit_jax.ensemble.helping import may_help
from onceedit_jax.ensemble.hops import Hop
from onceedit_jax.ensemble.preparation import PreparedPlugin, PreparedTarget
from onceedit_jax.ensemble.rule_checks import check_draws
from onceedit_jax.errors import InputError
from onceedit_jax.fusion.types import tells_always
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.text.prompts import Prompt, check_prompts


@dataclasses.dataclass(frozen=True)
class Answers:
    """Answers to N prompts.

    Attributes:
      alphas: `[N]`; of a prompt with hops, after them.
      edits: `[N]` int32, the place of the edit that each prompt asks for; -1 for none, and where
        the gate does not know or was not asked.
      before: for each target, its N texts without the plug-in.
      after: for each target, its N texts with it.
      hops: of each prompt, the phrases of it that gave way to the answers of edits.
      beyond: `[N]`, prompts that ask for more than the fact that they name an edit of, if a
        target's rule tells it the fact there: such a target has read it and answered by itself.
    """

    alphas: Alphas
    edits: Int[np.ndarray, "prompts"]
    before: list[list[str]]
    after: list[list[str]]
    hops: list[list[Hop]] = dataclasses.field(default_factory=list)
    beyond: Bool[np.ndarray, "prompts"] = dataclasses.field(
        default_factory=lambda: np.zeros(0, bool)
    )


def generate(
    plugin: PreparedPlugin,
    targets: Sequence[PreparedTarget],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 20,
    alphas: Alphas | None = None,
    sampling: SamplingSettings = GREEDY,
) -> Answers:
    """Answers of every target, before and after.

    An answer ends at an end token or after `max_new_tokens`, in plain text also at a newline.
    Prompts below the threshold are answered by the target alone, and the plug-in does not run for
    them.

    Tokens that are drawn are drawn from the target's own distribution. For a prompt that the
    plug-in speaks for, words that it drafts and the target accepts still stand, and a rule that
    reads both models' logits draws from its own distribution.

    Args:
      plugin: the prepared plug-in.
      targets: targets prepared for it.
      prompts: N texts or conversations. A conversation is a list of messages,
        `{"role": "user", "content": "Who?"}`, the user's last: the target reads all of it, the gate
        and the plug-in read the last message.
      max_new_tokens: longest answer.
      alphas: `[N]`, the plug-in's weight for each prompt (default: by the gate). With given alphas
        no hop is taken, and what asks for more than the fact is drafted too.
      sampling: how each next token is chosen (default: the most likely one). Every target draws a
        prompt's tokens by the same random numbers, before and after.

    Raises:
      InputError: a prompt is empty, a conversation of several turns for a target that is not asked
        in chat, `max_new_tokens` is below 1, or tokens are drawn and a rule has no distribution.
    """
    _check(prompts, max_new_tokens)
    check_draws([target.rule for target in targets], sampling)
    before, after = [], []
    with using(plugin.mesh):
        plugin.recall.forget()
        asked = Asked.of(plugin, targets, prompts, alphas, _draws_for(prompts, sampling))
        active = asked.active
        for target in targets:
            if share_a_batch(target.writer.params, len(prompts)):
                _expect_drafts(plugin, target, asked, max_new_tokens)
            known = plugin.recall.states(target.name)
            texts = _own_texts(target, prompts, asked.draws, max_new_tokens, known)
            before.append(texts)
            fused = iter(_fused_texts(plugin, target, asked, max_new_tokens))
            anew = asked.at(~active & asked.changed)
            alone = iter(_own_texts(target, *anew, max_new_tokens))
            after.append(
                [
                    next(fused) if speaks else next(alone) if changed else text
                    for speaks, changed, text in zip(active, asked.changed, texts, strict=True)
                ]
            )
        plugin.recall.forget()
    edits = np.where(active, asked.edits, NOTHING)
    return Answers(asked.alphas, edits, before, after, asked.hops, asked.beyond)


def answer(
    plugin: PreparedPlugin,
    targets: Sequence[PreparedTarget],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 20,
    alphas: Alphas | None = None,
    sampling: SamplingSettings = GREEDY,
) -> list[list[str]]:
    """Each target's fused answers to N prompts, without those before the edit.

    Arguments and errors are those of `generate`.
    """
    _check(prompts, max_new_tokens)
    check_draws([target.rule for target in targets], sampling)
    with using(plugin.mesh):
        plugin.recall.forget()
        asked = Asked.of(plugin, targets, prompts, alphas, _draws_for(prompts, sampling))
        active, answers = asked.active, []
        rest = asked.at(~active)
        for target in targets:
            fused = iter(_fused_texts(plugin, target, asked, max_new_tokens))
            alone = iter(_own_texts(target, *rest, max_new_tokens))
            answers.append([next(fused if speaks else alone) for speaks in active])
    return answers


def answer_alone(
    targets: Sequence[PreparedTarget],
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int = 20,
    sampling: SamplingSettings = GREEDY,
) -> list[list[str]]:
    """Each target's answers to N prompts, as if there were no plug-in.

    Raises:
      InputError: a prompt is empty, or `max_new_tokens` is below 1.
    """
    _check(prompts, max_new_tokens)
    answers = []
    for target in targets:
        with using(target.mesh):
            draws = _draws_for(prompts, sampling)
            answers.append(_own_texts(target, prompts, draws, max_new_tokens))
    return answers


def _draws_for(prompts: Sequence[Prompt], sampling: SamplingSettings) -> Draws:
    """How the answers to all prompts of a call are drawn."""
    return Draws(sampling, tuple(range(len(prompts))))


def _own_texts(
    target: PreparedTarget,
    prompts: Sequence[Prompt],
    draws: Draws,
    max_new_tokens: int,
    known: KnownStates | None = None,
) -> list[str]:
    """Answers of a target alone."""
    return target.texts(_own_tokens(target, prompts, draws, max_new_tokens, known))


def continuations(
    plugin: PreparedPlugin,
    target: PreparedTarget,
    prompts: Sequence[str],
    *,
    until: Sequence[str],
    max_new_tokens: int,
    draws: Draws = TAKEN,
) -> list[str]:
    """Texts that go on after N prompts as they are, over several lines and with their spaces.

    A text ends at an end token, or before the first of the texts in `until`.

    Args:
      plugin: the prepared plug-in.
      target: a target that was prepared for it, in plain text.
      prompts: N texts.
      until: texts that end them, none empty; drafts end by their own rules.
      max_new_tokens: length of the longest.
      draws: how tokens are drawn, if they are.

    Raises:
      InputError: as for `generate`.
    """
    _check(prompts, max_new_tokens)
    check_draws([target.rule], draws.settings)
    form = dataclasses.replace(target.format, goes_on=True, until=tuple(until))
    stops = text_stops(form, target.target.model.config.vocab_size)
    target = dataclasses.replace(target, format=form, stops=stops)
    with using(plugin.mesh):
        plugin.recall.forget()
        asked = Asked.of(plugin, [target], prompts, None, draws)
        fused = iter(_fused_tokens(plugin, target, asked, max_new_tokens))
        alone = iter(_own_tokens(target, *asked.at(~asked.active), max_new_tokens))
        tokens = [next(fused if speaks else alone) for speaks in asked.active]
    return [text_of(form, answer) for answer in tokens]


def _own_tokens(
    target: PreparedTarget,
    prompts: Sequence[Prompt],
    draws: Draws,
    max_new_tokens: int,
    known: KnownStates | None = None,
) -> list[list[int]]:
    """Answers of a target alone, in its tokens.

    Several prompts share the passes of the target already; for a single one the plug-in drafts.
    """
    writer, helper, stops = target.writer, target.helper, target.stops
    how: dict[str, Any] = {"max_new_tokens": max_new_tokens, "draws": draws}
    single = helper if len(prompts) == 1 else None
    if single is not None and may_help(single, writer.params, target.mesh, target.speculate):
        return [helped_answer(writer, single, prompts[0], stops, **how)]
    return own_tokens(writer, prompts, stops, **how, known=known)


def _expect_drafts(
    plugin: PreparedPlugin, target: PreparedTarget, asked: Asked, max_new_tokens: int
) -> None:
    """Have the target read the drafts that it will check along with the prompts."""
    rule = target.rule
    if rule.reads != "draft" or tells_always(rule):  # what it is told comes before the prompt
        return
    checked = asked.speaks(rule) & ~plugin.trusted(rule, asked.alphas)
    prompts, _ = asked.at(checked)
    reader = target.reader(plugin, prompts, asked.edits[checked])
    proposed = reader.ahead([[] for _ in prompts], range(len(prompts)))
    known = plugin.recall.states(target.name)
    for prompt, steps in zip(prompts, proposed, strict=True):
        tokens = [token for token, _ in steps[:max_new_tokens]]
        known.expect(target.format.encode(prompt), tokens[:-1])  # nothing is decided after the last


def _fused_texts(
    plugin: PreparedPlugin, target: PreparedTarget, asked: Asked, max_new_tokens: int
) -> list[str]:
    """Fused answers of a target to the active prompts among all, in their order."""
    return target.texts(_fused_tokens(plugin, target, asked, max_new_tokens))


def _fused_tokens(
    plugin: PreparedPlugin, target: PreparedTarget, asked: Asked, max_new_tokens: int
) -> list[list[int]]:
    """Fused answers of a target to the active prompts among all, in its tokens."""
    answers: dict[int, list[int]] = {}
    speaks = asked.speaks(target.rule)
    silent = asked.active & ~speaks
    if silent.any():
        prompts, draws = asked.at(silent)
        told = as_told(plugin, target.rule, prompts, asked.edits[silent], asked.beyond[silent])
        own = _own_tokens(target, told, draws, max_new_tokens)
        answers.update(zip(np.flatnonzero(silent).tolist(), own, strict=True))
    trusted = np.flatnonzero(speaks & plugin.trusted(target.rule, asked.alphas)).tolist()
    if trusted:
        group = [asked.prompts[i] for i in trusted]
        reader = target.reader(plugin, group, asked.edits[trusted])
        drafts = trusted_answers(target.format, len(group), reader, max_new_tokens=max_new_tokens)
        answers.update(zip(trusted, drafts, strict=True))
    chosen = [i for i in np.flatnonzero(speaks).tolist() if i not in answers]
    if target.rule.reads == "draft":
        write, most = _checked, len(chosen)
    else:  # those of similar length are read together
        chosen.sort(key=lambda i: len(target.format.encode(asked.prompts[i])))
        write, most = _token_by_token, PROMPTS
    for start in range(0, len(chosen), most or 1):
        places = chosen[start : start + most]
        tokens = write(plugin, target, asked, places, max_new_tokens)
        answers.update(zip(places, tokens, strict=True))
    return [answers[i] for i in sorted(answers)]


def _token_by_token(
    plugin: PreparedPlugin,
    target: PreparedTarget,
    asked: Asked,
    places: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Answers of a rule that reads both models' logits at every token."""
    return fused_answers(
        plugin.writer(asked.edits[places]),
        target.writer,
        [asked.prompts[i] for i in places],
        plugin.as_read([asked.prompts[i] for i in places], asked.edits[places]),
        asked.alphas[places],
        target.stops,
        target.rule,
        target.state,
        target.spelling,
        max_new_tokens=max_new_tokens,
        draws=asked.draws.of(places),
    )


def _checked(
    plugin: PreparedPlugin,
    target: PreparedTarget,
    asked: Asked,
    places: Sequence[int],
    max_new_tokens: int,
) -> list[list[int]]:
    """Answers from drafts that the target checks."""
    alphas = asked.alphas[places]

    def next_tokens(view: View, states: Any, rows: Int[np.ndarray, "decisions"]) -> Any:
        return np.asarray(decide_all(plugin, target, view, states, alphas[rows]).fused)

    prompts, edits = [asked.prompts[i] for i in places], asked.edits[places]
    reader = target.reader(plugin, prompts, edits)
    told = as_told(plugin, target.rule, prompts, edits, asked.beyond[places])
    return checked_answers(
        target.writer,
        told,
        reader,
        next_tokens,
        max_new_tokens=max_new_tokens,
        draws=asked.draws.of(places),
        known=plugin.recall.states(target.name),
    )


def _check(prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens={max_new_tokens}: expected an answer of 1 token or more")
    check_prompts(prompts)
