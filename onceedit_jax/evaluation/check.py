"""Checks an edited plug-in with probes: which answers the edit changes, and which it must not."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from onceedit_jax.ensemble.ensemble import Ensemble
from onceedit_jax.evaluation.probes import Column, Probe, columns, score_probe

SHORT, LONG = 20, 80  # tokens of an answer; LONG for columns that ask for several sentences
LONG_COLUMNS = frozenset({"Long", "form: whole sentence"})


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
    seed: int = 0,
) -> list[Checked]:
    """Ask every target every probe, before and after the edit, in free generation.

    Args:
      ensemble: the edited plug-in and its targets.
      probes: the questions.
      known: an earlier check of the same targets and probes; its answers before the edit are taken.
      seed: of the bootstrap intervals.
    """
    long = [probe.column in LONG_COLUMNS for probe in probes]
    before: list[list[str]] = [[""] * len(probes) for _ in ensemble.targets]
    after: list[list[str]] = [[""] * len(probes) for _ in ensemble.targets]
    alphas, edits = [0.0] * len(probes), [-1] * len(probes)
    for kind, tokens in ((False, SHORT), (True, LONG)):
        places = [i for i, is_long in enumerate(long) if is_long == kind]
        prompts = [probes[i].prompt for i in places]
        if not prompts:
            continue
        verdicts = ensemble.prepared_plugin.verdicts(prompts)
        if known is None:
            alone = ensemble.answers_alone(prompts, max_new_tokens=tokens)
        else:
            alone = [[str(each.rows[i]["before"]) for i in places] for each in known]
        # Only questions that open the gate can be answered otherwise.
        active = ensemble.prepared_plugin.active(verdicts.alphas)
        asked = [prompt for prompt, speaks in zip(prompts, active, strict=True) if speaks]
        fused = ensemble.answers(asked, max_new_tokens=tokens)
        for t in range(len(ensemble.targets)):
            rest = iter(fused[t])
            for n, i in enumerate(places):
                alphas[i] = float(verdicts.alphas[n])
                edits[i] = int(verdicts.edits[n]) if active[n] else -1
                before[t][i] = alone[t][n]
                after[t][i] = next(rest) if active[n] else alone[t][n]
    return [
        checked(target.name, probes, before[t], after[t], alphas=alphas, edits=edits, seed=seed)
        for t, target in enumerate(ensemble.targets)
    ]


def checked(
    target: str,
    probes: Sequence[Probe],
    before: Sequence[str],
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
      before: answers without the edit.
      after: answers with it.
      alphas: of each question, for the rows.
      edits: places of the edits that the questions were taken for, for the rows.
      seed: of the bootstrap intervals.
    """
    scores = [score_probe(*each) for each in zip(probes, before, after, strict=True)]
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
