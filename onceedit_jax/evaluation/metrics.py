"""Reliability, generality, locality and portability: the numbers of an evaluation.

Definitions follow the protocol of EasyEdit and WISE, which the results of ONCE EDIT are given in.
All functions use NumPy on the host: their arrays are argmax tokens that have left the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from onceedit_jax.data.normalization import normalise


def token_accuracy(
    predicted: ArrayLike, gold: ArrayLike, mask: ArrayLike | None = None
) -> Float[np.ndarray, "..."]:
    """Share of each text's scored tokens that are predicted correctly, teacher-forced.

    Args:
      predicted: argmax tokens `[..., T]`, int; column t is the prediction FOR token t, made at the
        position before it with the true prefix.
      gold: tokens of the correct answer `[..., T]`, int.
      mask: `[..., T]` bool, true at tokens of the answer, neither prompt nor padding (default:
        all).

    Returns:
      `[...]` float64 in [0, 1]; NaN for a text without a scored token.

    Raises:
      ValueError: the shapes differ.
    """
    predicted, gold = np.asarray(predicted), np.asarray(gold)
    mask = np.ones(gold.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    if not (predicted.ndim and predicted.shape == gold.shape == mask.shape):
        raise ValueError(
            "token_accuracy: predicted, gold and mask must have one shape [..., T], found "
            f"{predicted.shape}, {gold.shape} and {mask.shape}"
        )
    scored = mask.sum(axis=-1)
    correct = ((predicted == gold) & mask).sum(axis=-1)
    return np.where(scored > 0, correct / np.maximum(scored, 1), np.nan)


def agreement(
    after: ArrayLike, before: ArrayLike, mask: ArrayLike | None = None
) -> Float[np.ndarray, "..."]:
    """Locality of each text: how many tokens are those of the SAME target before the edit.

    The gold answer itself is not compared: a target that makes the same error before and after has
    locality 1.

    Args:
      after: argmax tokens `[..., T]` of the edited system, at the positions of the gold answer.
      before: those of the target alone.
      mask: `[..., T]` bool, the tokens to compare (default: all).

    Returns:
      `[...]` float64 in [0, 1]; NaN for a text without a scored token.
    """
    return token_accuracy(after, before, mask)


def exact_match(answer: str, target: str, accepted: Sequence[str] = ()) -> bool:
    """Whether a generated answer begins with the correct one, or with another accepted one.

    The generated answer is cut at its first newline, unless the correct one has several lines. Both
    are normalised, and the correct one must end at a word boundary: "Paris, France" matches
    "Paris", "Parisian" does not. An empty correct answer matches nothing.

    Args:
      answer: the generated answer.
      target: the correct answer.
      accepted: other correct answers.
    """
    return any(_begins_with(answer, each) for each in (target, *accepted))


def _begins_with(answer: str, target: str) -> bool:
    whole = "\n" in target.strip()
    said, gold = normalise(answer if whole else answer.split("\n", 1)[0]), normalise(target)
    if not gold or not said.startswith(gold):
        return False
    rest = said[len(gold) :]
    return not (rest and rest[0].isalnum() and gold[-1].isalnum())


def accepted_accuracy(first: float, others: Sequence[float]) -> float:
    """A question's token accuracy where other answers are accepted beside the first.

    An accepted answer of which every token is predicted is right. One that is right in part counts
    for nothing: the share of the first answer is what published numbers have.

    Args:
      first: token accuracy of the first answer.
      others: of the accepted ones.
    """
    return 1.0 if 1.0 in others else first


def record_means(
    values: ArrayLike, owners: ArrayLike, records: int
) -> Float[np.ndarray, "records"]:
    """Average the scores of each record's texts (a record may have several locality pairs).

    Args:
      values: `[P]` float, the score of each text; NaN is skipped.
      owners: `[P]` int, the position of the record that each text belongs to, in [0, records).
      records: N, the number of records.

    Returns:
      `[N]` float64; NaN for a record without a score.

    Raises:
      ValueError: an owner is outside [0, records), or the two lengths differ.
    """
    values = np.asarray(values, dtype=np.float64)
    owners = np.asarray(owners, dtype=np.int64)
    if values.shape != owners.shape or values.ndim != 1:
        raise ValueError(
            f"record_means: values and owners must both be [P], found {values.shape} and "
            f"{owners.shape}"
        )
    if owners.size and not (owners.min() >= 0 and owners.max() < records):
        raise ValueError(
            f"record_means: owners must be in [0, {records}), found {owners.min()}..{owners.max()}"
        )
    present = ~np.isnan(values)
    count = np.bincount(owners[present], minlength=records)
    total = np.bincount(owners[present], weights=values[present], minlength=records)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclass(frozen=True)
class Mean:
    """A macro-average.

    Attributes:
      value: the average; None if no record has a score.
      records: how many records have one.
    """

    value: float | None
    records: int


def macro_average(per_record: ArrayLike) -> Mean:
    """Mean over records `[N]`: each counts once, whatever its number of tokens. NaN is skipped."""
    values = np.asarray(per_record, dtype=np.float64)
    present = values[~np.isnan(values)]
    return Mean(float(present.mean()) if present.size else None, int(present.size))


@dataclass(frozen=True)
class Scores:
    """The scores of one system on one set of records.

    Attributes:
      rel: reliability.
      gen: generality.
      loc: locality.
      portability: portability.
      kinds: from "loc" and "portability" to the scores of the kinds of such questions, by name;
        empty where no question has a kind.
    """

    rel: Mean
    gen: Mean
    loc: Mean
    portability: Mean
    kinds: Mapping[str, Mapping[str, Mean]] = field(default_factory=dict)

    @property
    def avg(self) -> float | None:
        """mean(Rel, Gen, Loc); None if one of them is: published Avg is over all three."""
        values = [m.value for m in (self.rel, self.gen, self.loc) if m.value is not None]
        return sum(values) / 3 if len(values) == 3 else None

    def as_dict(self) -> dict[str, Any]:
        """Values for the summary JSON: rel, gen, loc, avg, portability, counts, perhaps kinds."""
        names = ("rel", "gen", "loc", "portability")
        fields: dict[str, Mean] = {name: getattr(self, name) for name in names}
        values = {name: mean.value for name, mean in fields.items()}
        counts = {name: mean.records for name, mean in fields.items()}
        whole = {**values, "avg": self.avg, "counts": counts}
        return {**whole, "kinds": self._kinds_as_dict()} if self.kinds else whole

    def _kinds_as_dict(self) -> dict[str, Any]:
        """Of each metric the kinds with their records, and the mean of the kinds."""
        return {
            metric: {
                "mean": _mean_of_kinds(kinds),
                "by_kind": {
                    kind: {"value": mean.value, "records": mean.records}
                    for kind, mean in kinds.items()
                },
            }
            for metric, kinds in self.kinds.items()
        }


def _mean_of_kinds(kinds: Mapping[str, Mean]) -> float | None:
    values = [mean.value for mean in kinds.values() if mean.value is not None]
    return sum(values) / len(values) if values else None


def scores(
    rel: ArrayLike,
    gen: ArrayLike,
    loc: ArrayLike,
    portability: ArrayLike | None = None,
    *,
    kinds: Mapping[str, Mapping[str, ArrayLike]] | None = None,
) -> Scores:
    """Macro-average scores of records, each `[N]` float, NaN for a record without that score.

    Args:
      rel: reliability.
      gen: generality.
      loc: locality.
      portability: portability.
      kinds: of each metric, the scores of the questions of each kind.
    """
    averages = {
        metric: {kind: macro_average(values) for kind, values in by_kind.items()}
        for metric, by_kind in (kinds or {}).items()
    }
    return Scores(
        rel=macro_average(rel),
        gen=macro_average(gen),
        loc=macro_average(loc),
        portability=macro_average([] if portability is None else portability),
        kinds=averages,
    )
