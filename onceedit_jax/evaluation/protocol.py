"""The evaluation protocol: four metrics of every target, before and after all edits, in one run.

Definitions are those of EasyEdit and WISE, see `metrics`. All edits are in place together.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, contradicting
from onceedit_jax.decoding.prefix_batching import Tokens, states_after, tokens_after
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble.ensemble import Ensemble
from onceedit_jax.ensemble.scoring import TokenScores, expect
from onceedit_jax.evaluation.asked import (
    METRICS,
    Question,
    average,
    per_question,
    questions,
    with_accepted,
)
from onceedit_jax.evaluation.metrics import Scores, agreement, exact_match, token_accuracy
from onceedit_jax.evaluation.options import Mode
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

States = Float[np.ndarray, "prefixes hidden"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
      results: one entry per target and mode, in the summary's schema (docs/data-formats.md).
      records: one entry per target, mode and question, for the JSON lines.
      alphas: from metric names to the alphas of its questions.
      losses: from target names to the gradient search's mean losses, before it and after each step.
    """

    results: list[dict[str, Any]]
    records: list[dict[str, Any]]
    alphas: dict[str, list[float]]
    losses: dict[str, list[float]]


class Block(NamedTuple):
    """The results on some of the records.

    Attributes:
      rows: as `Evaluation.records`.
      losses: from names of targets that searched to the losses before the search and after each
        step, summed over decisions.
      decisions: the number of these decisions for each of these targets.
    """

    rows: list[dict[str, Any]]
    losses: dict[str, list[float]]
    decisions: dict[str, int]


def evaluate(
    ensemble: Ensemble,
    records: Sequence[EditRecord],
    *,
    mode: Mode = "teacher-forced",
    max_new_tokens: int = 20,
) -> Evaluation:
    """Score every target before and after, with all edits in place.

    The prompts are plain text, as in the paper, unless the ensemble was made with `chat=True` or
    with a system prompt.

    Args:
      ensemble: the edited plug-in and its targets.
      records: the edits with their questions.
      mode: teacher-forced next tokens, free greedy generation, or both.
      max_new_tokens: length of the longest generated answer.

    Returns:
      Scores of each record and their averages. Locality compares a target with itself before.
    """
    block = evaluate_block(ensemble, records, mode=mode, max_new_tokens=max_new_tokens)
    return gathered(ensemble, records, [block], mode=mode)


def plain_unless_chosen(ensemble: Ensemble) -> Ensemble:
    """An ensemble as it is evaluated: in plain text, unless it was made with chat or without."""
    return ensemble if ensemble.chat is not None else ensemble.with_chat(False)


def evaluate_block(
    ensemble: Ensemble, records: Sequence[EditRecord], *, mode: Mode, max_new_tokens: int
) -> Block:
    """Evaluate some of the records; `gathered` makes the scores of several blocks.

    Arguments are those of `evaluate`.
    """
    with ensemble.prepared_plugin.recall.keeping():
        return _measured(plain_unless_chosen(ensemble), records, mode, max_new_tokens)


def _measured(
    ensemble: Ensemble, records: Sequence[EditRecord], mode: Mode, max_new_tokens: int
) -> Block:
    """See `evaluate_block`."""
    every = questions(records)
    rows: list[dict[str, Any]] = []
    losses: dict[str, list[float]] = {}
    decisions: dict[str, int] = {}

    def add(target: int, mode: str, alphas: Any, details: list[dict[str, Any]]) -> None:
        rows.extend(
            {
                "target": ensemble.targets[target].name,
                "mode": mode,
                "record": records[question.record].index,
                "metric": question.metric,
                **({"kind": question.pair.kind} if question.pair.kind else {}),
                "alpha": float(alpha),
                **detail,
            }
            for question, alpha, detail in zip(every, alphas, details, strict=True)
        )

    prompts = [question.pair.prompt for question in every]
    answers = None
    if mode in ("generate", "both"):
        if mode == "both":  # the targets read each prompt once, with the true answer after it
            expect(ensemble.prepared_plugin, ensemble.prepared, [each.pair for each in every])
        answers = ensemble.generate(prompts, max_new_tokens=max_new_tokens)
    if mode in ("teacher-forced", "both"):
        pairs, owners = with_accepted(every)
        scored = ensemble.score(pairs[: len(every)])
        # Apart, so that losses and decisions are those of the questions' own answers.
        others = (
            ensemble.score(pairs[len(every) :]).targets if owners else [()] * len(scored.targets)
        )
        for t, own in enumerate(scored.targets):
            texts = [*own, *others[t]]
            metrics = [q.metric for q in every] + ["" for _ in owners]
            each = [_forced(*one) for one in zip(metrics, texts, strict=True)]
            olds, news = (per_question([one[i] for one in each], owners) for i in (0, 1))
            details = [{"before": old, "after": new} for old, new in zip(olds, news, strict=True)]
            add(t, "teacher-forced", scored.alphas, details)
            if (target_losses := scored.losses[t]) is not None:
                name = ensemble.targets[t].name
                losses[name] = target_losses.sum(0).tolist()
                decisions[name] = len(target_losses)
    if answers is not None:
        for t, (before, after) in enumerate(zip(answers.before, answers.after, strict=True)):
            details = [_generated(*each) for each in zip(every, before, after, strict=True)]
            add(t, "generate", answers.alphas, details)
    return Block(rows, losses, decisions)


def _forced(metric: str, text: TokenScores) -> tuple[float, float]:
    """A text's scores before and after, given the true prefix at every token."""
    if metric == "loc":
        return 1.0, float(agreement(text.after, text.before))
    before, after = (token_accuracy(tokens, text.gold) for tokens in (text.before, text.after))
    return float(before), float(after)


def _generated(question: Question, before: str, after: str) -> dict[str, Any]:
    """A question's scores before and after, with the generated answers."""
    if question.metric == "loc":
        correct = (True, normalise(before) == normalise(after))
    else:
        right = (question.pair.target, question.pair.accepted)
        correct = (exact_match(before, *right), exact_match(after, *right))
    scored = {"before": float(correct[0]), "after": float(correct[1])}
    return {**scored, "answer_before": before, "answer_after": after}


def gathered(
    ensemble: Ensemble, records: Sequence[EditRecord], blocks: Sequence[Block], *, mode: Mode
) -> Evaluation:
    """The scores of all records, from blocks that cover them in their order.

    Args:
      ensemble: what was evaluated.
      records: all records.
      blocks: from `evaluate_block`.
      mode: that of the blocks.
    """
    every, opposed = questions(records), contradicting(records)
    modes = ("teacher-forced", "generate") if mode == "both" else (mode,)
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    # A block has its questions once for each mode and target, one after another.
    runs = [(kind, target) for kind in modes for target in ensemble.prepared]
    for n, (kind, target) in enumerate(runs):
        run_rows = []
        for block in blocks:
            size = len(block.rows) // len(runs)
            run_rows += block.rows[n * size : (n + 1) * size]
        rows += run_rows
        results.append(
            {
                "target": target.name,
                "mode": kind,
                "fusion": target.rule.name,
                "search": getattr(target.rule.settings, "search", "none"),
                "records": len(records),
                "contradicting": len(opposed),
                **_before_and_after(every, run_rows, len(records)),
                "consistent": _before_and_after(every, run_rows, len(records), opposed)
                if opposed
                else None,
            }
        )
    alphas: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for row in rows[-len(every) :] if every else ():  # the same for every target and mode
        alphas[row["metric"]].append(row["alpha"])
    return Evaluation(results, rows, alphas, _mean_losses(ensemble, blocks))


def _before_and_after(
    every: Sequence[Question],
    rows: Sequence[dict[str, Any]],
    records: int,
    leave_out: Collection[int] = (),
) -> dict[str, Any]:
    """One target's average scores, from its rows, over all records but those to leave out."""
    return {
        when: average(every, [row[when] for row in rows], records, leave_out).as_dict()
        for when in ("before", "after")
    }


def _mean_losses(ensemble: Ensemble, blocks: Sequence[Block]) -> dict[str, list[float]]:
    losses = {}
    for target in ensemble.targets:
        # A block in which no edit is in reach has no decisions.
        searched = [block for block in blocks if target.name in block.losses]
        if searched:
            total = np.sum([block.losses[target.name] for block in searched], axis=0)
            count = sum(block.decisions[target.name] for block in searched)
            losses[target.name] = (total / count).tolist()
    return losses


def plugin_alone(plugin: EditedPlugin, records: Sequence[EditRecord]) -> Scores:
    """Teacher-forced scores of the edited plug-in by itself."""

    def states(prefixes: Sequence[Tokens], prompts: Sequence[str]) -> States:
        edits = np.full(len(prompts), NOTHING)
        if plugin.routes:
            edits = plugin.verdicts(prompts).edits
        return plugin.states_after(prefixes, edits)

    return _alone(states, plugin.params, plugin.config, plugin.tokenizer, records)


def model_alone(
    params: Params, config: ModelConfig, tokenizer: Tokenizer, records: Sequence[EditRecord]
) -> Scores:
    """Teacher-forced scores of one model alone, which has no locality."""

    def states(prefixes: Sequence[Tokens], prompts: Sequence[str]) -> States:
        return states_after(params, config, prefixes)

    return _alone(states, params, config, tokenizer, records)


def _alone(
    states_of: Callable[[Sequence[Tokens], Sequence[str]], States],
    params: Params,
    config: ModelConfig,
    tokenizer: Tokenizer,
    records: Sequence[EditRecord],
) -> Scores:
    """Scores of a model alone, from its states after prefixes and the prompt of each."""
    every = [q for q in questions(records) if q.metric != "loc"]
    pairs, owners = with_accepted(every)
    texts = [tokenizer.encode_pair(pair.prompt, pair.target) for pair in pairs]
    prefixes = [tuple(tokens[:end]) for tokens, start in texts for end in range(start, len(tokens))]
    prompts = [
        pair.prompt
        for pair, (tokens, start) in zip(pairs, texts, strict=True)
        for _ in range(start, len(tokens))
    ]
    states = states_of(prefixes, prompts)
    predicted = tokens_after(params, config, states)
    values, offset = [], 0
    for tokens, start in texts:
        gold = np.array(tokens[start:])
        values.append(float(token_accuracy(predicted[offset : offset + len(gold)], gold)))
        offset += len(gold)
    return average(every, per_question(values, owners), len(records))
