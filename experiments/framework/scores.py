"""Rows and averages of scores, as `Workspace.evaluate` gives them."""

from collections.abc import Mapping, Sequence
from typing import Any

METRICS = ("rel", "gen", "loc", "avg")
HEADINGS = ("Rel", "Gen", "Loc", "Avg")

Scores = Sequence[Mapping[str, Any]]  # one entry a target


def score_rows(
    labels: Sequence[Any],
    scores: Scores,
    *,
    when: str = "after",
    metrics: Sequence[str] = METRICS,
) -> list[list[Any]]:
    """A row a target: the labels, the target's name, and its scores.

    Args:
      labels: the first columns of every row.
      scores: one entry a target.
      when: `before` or `after` the edit.
      metrics: which scores, in order; None where an entry does not have one.
    """
    return [
        [*labels, score["target"], *(score[when].get(metric) for metric in metrics)]
        for score in scores
    ]


def mean_score(scores: Scores, metric: str = "avg", when: str = "after") -> float:
    """The mean of a metric over the targets."""
    values = [float(score[when][metric]) for score in scores]
    return sum(values) / len(values)
