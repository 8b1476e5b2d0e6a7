"""The evaluation protocol: every edit applied at once, then reliability, generality, locality and
portability of every target, before and after, from one run.
"""  # noqa: D205

import dataclasses
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, Pair, contradicting
from onceedit_jax.decoding.prefix_batching import states_after, tokens_after
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble.ensemble import Ensemble
from onceedit_jax.ensemble.scoring import TokenScores
from onceedit_jax.evaluation.metrics import (
    Scores,
    agreement,
    exact_match,
    record_means,
    scores,
    token_accuracy,
)
from onceedit_jax.evaluation.options import Mode
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

METRICS = ("rel", "gen", "loc", "portability")


@dataclasses.dataclass(frozen=True)
class Question:
    """One text that is scored: whose record it is, for which metric, and the text."""

    record: int
    metric: str
    pair: Pair


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
      results: one entry per target and mode, in the summary's schema (docs/data-formats.md).
      records: one entry per target, mode and question, for the JSON lines.
      alphas: metric name to the alphas of its questions.
      losses: target name to the gradient search's mean loss before it and after each step.
    """

    results: list[dict[str, Any]]
    records: list[dict[str, Any]]
    alphas: dict[str, list[float]]
    losses: dict[str, list[float]]


class Block(NamedTuple):
    """What was found out about some records.

    `rows` are as in `Evaluation`; `losses` has for each target that searched the search's loss
    before it and after each step, summed over decisions, and `decisions` their number.
    """

    rows: list[dict[str, Any]]
    losses: dict[str, list[float]]
    decisions: dict[str, int]


def questions(records: Sequence[EditRecord]) -> list[Question]:
    """Everything that the records ask, record by record."""
    found = []
    for i, record in enumerate(records):
        found.append(Question(i, "rel", Pair(record.prompt, record.target)))
        if record.rephrase:
            found.append(Question(i, "gen", Pair(record.rephrase, record.target)))
        found += [Question(i, "loc", pair) for pair in record.locality]
        found += [Question(i, "portability", pair) for pair in record.portability]
    return found


def evaluate(
    ensemble: Ensemble,
    records: Sequence[EditRecord],
    *,
    mode: Mode = "teacher-forced",
    max_new_tokens: int = 20,
) -> Evaluation:
    """Score every target before and after, with all edits in place.

    Args:
      ensemble: the edited plug-in and its targets.
      records: the edits with their questions.
      mode: teacher-forced next tokens, free greedy generation, or both.
      max_new_tokens: longest generated answer.

    Returns:
      Scores by record and their averages; locality compares a target with itself before.
    """
    block = evaluate_block(ensemble, records, mode=mode, max_new_tokens=max_new_tokens)
    return gathered(ensemble, records, [block], mode=mode)


def evaluate_block(
    ensemble: Ensemble, records: Sequence[EditRecord], *, mode: Mode, max_new_tokens: int
) -> Block:
    """What `evaluate` finds out about some of the records; `gathered` makes the scores of it."""
    asked = questions(records)
    pairs = [question.pair for question in asked]
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
                "alpha": float(alpha),
                **detail,
            }
            for question, alpha, detail in zip(asked, alphas, details, strict=True)
        )

    if mode in ("teacher-forced", "both"):
        scored = ensemble.score(pairs)
        for t, texts in enumerate(scored.targets):
            details = [_forced(q.metric, text) for q, text in zip(asked, texts, strict=True)]
            add(t, "teacher-forced", scored.alphas, details)
            if (searched := scored.losses[t]) is not None:
                name = ensemble.targets[t].name
                losses[name], decisions[name] = searched.sum(0).tolist(), len(searched)
    if mode in ("generate", "both"):
        answers = ensemble.generate([pair.prompt for pair in pairs], max_new_tokens=max_new_tokens)
        for t, said in enumerate(zip(answers.before, answers.after, strict=True)):
            details = [_generated(q, *pair) for q, *pair in zip(asked, *said, strict=True)]
            add(t, "generate", answers.alphas, details)
    return Block(rows, losses, decisions)


def _forced(metric: str, text: TokenScores) -> dict[str, Any]:
    """A question's scores before and after, given the true prefix at every token."""
    if metric == "loc":
        return {"before": 1.0, "after": float(agreement(text.after, text.before))}
    before, after = (token_accuracy(said, text.gold) for said in (text.before, text.after))
    return {"before": float(before), "after": float(after)}


def _generated(question: Question, before: str, after: str) -> dict[str, Any]:
    """A question's scores before and after, and the free answers they are of."""
    if question.metric == "loc":
        right = (True, normalise(before) == normalise(after))
    else:
        wanted = question.pair.target
        right = (exact_match(before, wanted), exact_match(after, wanted))
    scored = {"before": float(right[0]), "after": float(right[1])}
    return {**scored, "answer_before": before, "answer_after": after}


def gathered(
    ensemble: Ensemble, records: Sequence[EditRecord], blocks: Sequence[Block], *, mode: Mode
) -> Evaluation:
    """The scores of all records, from blocks that cover them in their order."""
    asked, opposed = questions(records), contradicting(records)
    modes = ("teacher-forced", "generate") if mode == "both" else (mode,)
    results: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    # A block holds its questions once for every mode and target, one after another.
    runs = [(kind, target.name) for kind in modes for target in ensemble.targets]
    for n, (kind, name) in enumerate(runs):
        found: list[dict[str, Any]] = []
        for block in blocks:
            size = len(block.rows) // len(runs)
            found += block.rows[n * size : (n + 1) * size]
        times = {when: [row[when] for row in found] for when in ("before", "after")}

        def average(times: Any = times, leave_out: Collection[int] = ()) -> dict[str, Any]:
            return {
                when: _average(asked, values, len(records), leave_out).as_dict()
                for when, values in times.items()
            }

        rows += found
        results.append(
            {
                "target": name,
                "mode": kind,
                "fusion": ensemble.rule.name,
                "search": getattr(ensemble.rule.settings, "search", "none"),
                "records": len(records),
                "contradicting": len(opposed),
                **average(),
                "consistent": average(leave_out=opposed) if opposed else None,
            }
        )
    by_metric: dict[str, list[float]] = {metric: [] for metric in METRICS}
    for row in rows[-len(asked) :] if asked else ():  # the same for every target and mode
        by_metric[row["metric"]].append(row["alpha"])
    losses: dict[str, list[float]] = {}
    for target in ensemble.targets:
        # A block in which no edit is in reach has searched nothing.
        searched = [block for block in blocks if target.name in block.losses]
        if searched:
            total = np.sum([block.losses[target.name] for block in searched], axis=0)
            count = sum(block.decisions[target.name] for block in searched)
            losses[target.name] = (total / count).tolist()
    return Evaluation(results, rows, by_metric, losses)


def plugin_alone(plugin: EditedPlugin, records: Sequence[EditRecord]) -> Scores:
    """Teacher-forced scores of the edited plug-in by itself."""
    return model_alone(plugin.params, plugin.config, plugin.tokenizer, records)


def model_alone(
    params: Params, config: ModelConfig, tokenizer: Tokenizer, records: Sequence[EditRecord]
) -> Scores:
    """Teacher-forced scores of one model; by itself it has no locality to speak of."""
    asked = [q for q in questions(records) if q.metric != "loc"]
    texts = [tokenizer.encode_pair(q.pair.prompt, q.pair.target) for q in asked]
    prefixes = [tuple(tokens[:end]) for tokens, start in texts for end in range(start, len(tokens))]
    states = states_after(params, config, prefixes)
    predicted = tokens_after(params, config, states)
    values, taken = [], 0
    for tokens, start in texts:
        gold = np.array(tokens[start:])
        values.append(float(token_accuracy(predicted[taken : taken + len(gold)], gold)))
        taken += len(gold)
    return _average(asked, values, len(records))


def _average(
    asked: Sequence[Question],
    values: Sequence[float],
    records: int,
    leave_out: Collection[int] = (),
) -> Scores:
    means = {}
    for metric in METRICS:
        chosen = [
            i for i, q in enumerate(asked) if q.metric == metric and q.record not in leave_out
        ]
        means[metric] = record_means(
            [values[i] for i in chosen], [asked[i].record for i in chosen], records
        )
    return scores(means["rel"], means["gen"], means["loc"], means["portability"])
