"""Checks an edited plug-in with probes: which answers the edit changes, and which it must not."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from onceedit_jax.ensemble.ensemble import Ensemble
from onceedit_jax.ensemble.hops import follow, rewritten
from onceedit_jax.evaluation.probes import Column, Probe, columns, score_probe

SHORT, LONG = 20, 80  # tokens of an answer; LONG for columns that ask for several sentences
LONG_COLUMNS = frozenset({"Long", "Sentence", "form: whole sentence"})


@dataclasses.dataclass(frozen=True)
class Checked:
    """What one target says to all probes.

    Attributes:
      target: its name.
      columns: averages by column.
      rows: one entry for each probe: the question, both answers, the scores.
    """

    target: str
    columns: Mapping[str, Column]
    rows: Sequence[Mapping[str, Any]]


def check(
    ensemble: Ensemble,
    probes: Sequence[Probe],
    *,
    known: Sequence[Checked] | None = None,
    compared: Collection[int] | None = None,
    seed: int = 0,
    part: int | None = None,
    on_questions: Callable[[int, int], None] = lambda done, total: None,
) -> list[Checked]:
    """Ask every target every probe, before and after the edit, in free generation.

    Args:
      ensemble: the edited plug-in and its targets.
      probes: the questions.
      known: an earlier check of the same targets and probes; its answers before the edit are taken.
      compared: places of the probes whose answer before the edit is needed even where the gate
        opens (default: all). It must have those that expect an unchanged answer.
      seed: of the bootstrap intervals.
      part: questions that are asked at once (default: all of one length).
      on_questions: called with (questions asked, all questions) before each part and at the end.
    """
    before: list[list[str | None]] = [
        [None] * len(probes) if known is None else [row["before"] for row in known[t].rows]
        for t in range(len(ensemble.targets))
    ]
    after: list[list[str]] = [[""] * len(probes) for _ in ensemble.targets]
    compared = range(len(probes)) if compared is None else compared
    prompts = [probe.prompt for probe in probes]
    hops = follow(ensemble.prepared_plugin, prompts)
    verdicts = ensemble.prepared_plugin.verdicts(list(map(rewritten, prompts, hops)))
    active = ensemble.prepared_plugin.active(verdicts.alphas)
    anew = active | np.array([bool(each) for each in hops], bool)
    asked = 0
    for tokens, places in by_length(probes):
        size = part or len(places) or 1
        for some in (places[start : start + size] for start in range(0, len(places), size)):
            on_questions(asked, len(probes))
            # Only questions that open the gate, or with hops, can be answered otherwise.
            alone = [i for i in some if not anew[i] or i in compared]
            fused = [i for i in some if anew[i]]
            if known is None:
                _ask(ensemble.answers_alone, probes, alone, tokens, into=before)
            _ask(ensemble.answers, probes, fused, tokens, into=after)
            asked += len(some)
    on_questions(asked, len(probes))
    for old, new in zip(before, after, strict=True):
        for i in np.flatnonzero(~anew).tolist():
            new[i] = old[i] or ""
    edits = np.where(active, verdicts.edits, -1).tolist()
    alphas = verdicts.alphas.tolist()
    return [
        checked(target.name, probes, before[t], after[t], alphas=alphas, edits=edits, seed=seed)
        for t, target in enumerate(ensemble.targets)
    ]


def by_length(probes: Sequence[Probe]) -> list[tuple[int, list[int]]]:
    """Lengths of answers in tokens, each with the places of the probes that get it."""
    places: dict[int, list[int]] = {SHORT: [], LONG: []}
    for i, probe in enumerate(probes):
        places[LONG if probe.column in LONG_COLUMNS else SHORT].append(i)
    return list(places.items())


def checked(
    target: str,
    probes: Sequence[Probe],
    before: Sequence[str | None],
    after: Sequence[str],
    *,
    alphas: Sequence[float] | None = None,
    edits: Sequence[int] | None = None,
    seed: int = 0,
) -> Checked:
    """Scores of any system's answers to N probes.

    Args:
      target: name of the model that answers.
      probes: the questions.
      before: answers without the edit; None where it was not asked.
      after: answers with it.
      alphas: of each question, for the rows.
      edits: places of the edits that the questions were taken for, for the rows.
      seed: of the bootstrap intervals.
    """
    scores = [
        score_probe(probe, old or "", new)
        for probe, old, new in zip(probes, before, after, strict=True)
    ]
    rows = [
        {
            "column": probe.column,
            "fact": probe.fact,
            "prompt": probe.prompt,
            "before": old,
            "after": new,
            **({} if alphas is None else {"alpha": alphas[i]}),
            **({} if edits is None else {"edit": edits[i]}),
            **score,
        }
        for i, (probe, old, new, score) in enumerate(
            zip(probes, before, after, scores, strict=True)
        )
    ]
    return Checked(target, columns(probes, scores, seed=seed), rows)


def _ask(
    answers: Callable[..., list[list[str]]],
    probes: Sequence[Probe],
    places: Sequence[int],
    max_new_tokens: int,
    *,
    into: Sequence[list[Any]],
) -> None:
    """Ask the probes at some places, and put each target's answers there."""
    if not places:
        return
    prompts = list(dict.fromkeys(probes[i].prompt for i in places))
    found = answers(prompts, max_new_tokens=max_new_tokens)
    for texts, told in zip(into, found, strict=True):
        by_prompt = dict(zip(prompts, told, strict=True))
        for place in places:
            texts[place] = by_prompt[probes[place].prompt]
