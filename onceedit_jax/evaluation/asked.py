"""What records are asked, with every answer that is right, and averages over the questions."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Float

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.evaluation.metrics import Scores, accepted_accuracy, record_means, scores

METRICS = ("rel", "gen", "loc", "portability")


@dataclass(frozen=True)
class Question:
    """One text to score.

    Attributes:
      record: the position of its record.
      metric: one of `METRICS`.
      pair: the prompt and its answer.
    """

    record: int
    metric: str
    pair: Pair


def questions(records: Sequence[EditRecord]) -> list[Question]:
    """All texts of the records that are scored, record by record."""
    every = []
    for i, record in enumerate(records):
        answered = partial(Pair, target=record.target, accepted=record.accepted)
        every.append(Question(i, "rel", answered(record.prompt)))
        every += [Question(i, "gen", answered(text)) for text in record.rephrases]
        every += [Question(i, "loc", pair) for pair in record.locality]
        every += [Question(i, "portability", pair) for pair in record.portability]
    return every


def with_accepted(every: Sequence[Question]) -> tuple[list[Pair], list[int]]:
    """All texts that teacher forcing scores: each question's answer, then the other accepted ones.

    Locality compares no answers, so that its questions have one text each.

    Returns:
      (pairs, owners): the first pairs are those of the questions; `owners` are the places of the
      questions that the others belong to.
    """
    pairs, owners = [question.pair for question in every], list[int]()
    for place, question in enumerate(every):
        known = {normalise(question.pair.target)}
        for text in question.pair.accepted if question.metric != "loc" else ():
            if (plain := normalise(text)) not in known:
                known.add(plain)
                pairs.append(Pair(question.pair.prompt, text))
                owners.append(place)
    return pairs, owners


def per_question(values: Sequence[float], owners: Sequence[int]) -> list[float]:
    """The value of each question, from those of its texts; see `accepted_accuracy`.

    Args:
      values: of the pairs that `with_accepted` gives.
      owners: as it gives them.
    """
    count = len(values) - len(owners)
    others: dict[int, list[float]] = {}
    for owner, value in zip(owners, values[count:], strict=True):
        others.setdefault(owner, []).append(value)
    return [accepted_accuracy(value, others.get(i, ())) for i, value in enumerate(values[:count])]


def average(
    every: Sequence[Question],
    values: Sequence[float],
    records: int,
    leave_out: Collection[int] = (),
) -> Scores:
    """Scores from the value of each question, over all records but those to leave out."""
    groups: dict[str, dict[str, list[int]]] = {metric: {} for metric in METRICS}
    for i, q in enumerate(every):
        if q.record not in leave_out:
            groups[q.metric].setdefault(q.pair.kind, []).append(i)

    def means(places: Sequence[int]) -> Float[np.ndarray, "records"]:
        return record_means([values[i] for i in places], [every[i].record for i in places], records)

    whole = [means([*chain.from_iterable(groups[metric].values())]) for metric in METRICS]
    kinds = {
        metric: {kind: means(places) for kind, places in by_kind.items() if kind}
        for metric, by_kind in groups.items()
        if any(by_kind)
    }
    return scores(*whole, kinds=kinds)
