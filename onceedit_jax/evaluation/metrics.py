"""Reliability, generality, locality and portability: what the numbers of an evaluation mean.

Definitions follow the protocol of EasyEdit and WISE, which ONCE EDIT is reported in. All of it is
NumPy on the host: the arrays are argmax tokens that have already left the device.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceedit_jax.data.normalization import normalise


def token_accuracy(
    predicted: ArrayLike, gold: ArrayLike, mask: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Share of each text's scored tokens that are predicted right, teacher-forced.

    Args:
        predicted: argmax tokens `[..., T]`, int; column t is the prediction FOR token t, made at
            the position before it with the true prefix.
        gold: the target's tokens `[..., T]`, int.
        mask: `[..., T]` bool, true at target tokens, neither prompt nor padding (default: all).

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
    right = ((predicted == gold) & mask).sum(axis=-1)
    return np.where(scored > 0, right / np.maximum(scored, 1), np.nan)


def agreement(
    after: ArrayLike, before: ArrayLike, mask: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Locality of each text: how often the edited system says what the SAME target said before.

    Both are argmax tokens `[..., T]` at the positions of the gold answer, which itself is not
    compared: a target that is wrong in the same way as before the edit is perfectly local.

    Returns:
        `[...]` float64 in [0, 1]; NaN for a text without a scored token.
    """
    return token_accuracy(after, before, mask)


def exact_match(answer: str, target: str) -> bool:
    """Whether a freely generated answer begins with the target.

    The answer is cut at its first newline. Both sides are normalised, and the target must end at a
    word boundary: "Paris, France" matches "Paris", "Parisian" does not. An empty target matches
    nothing.
    """
    said, wanted = normalise(answer.split("\n", 1)[0]), normalise(target)
    if not wanted or not said.startswith(wanted):
        return False
    rest = said[len(wanted) :]
    return not (rest and rest[0].isalnum() and wanted[-1].isalnum())


def record_means(values: ArrayLike, owners: ArrayLike, records: int) -> NDArray[np.float64]:
    """Average scored texts within their record (a record may have several locality pairs).

    Args:
        values: `[P]` float, one score a text; NaN is skipped.
        owners: `[P]` int, the position of the record each text belongs to, in [0, records).
        records: the number of records N.

    Returns:
        `[N]` float64; NaN for a record without a scored text.

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
    """A macro-average and how many records it is over; `value` is None where none has the field."""

    value: float | None
    records: int


def macro_average(per_record: ArrayLike) -> Mean:
    """Mean over records `[N]`, each counting once however many tokens it has; NaN marks absence."""
    values = np.asarray(per_record, dtype=np.float64)
    present = values[~np.isnan(values)]
    return Mean(float(present.mean()) if present.size else None, int(present.size))


@dataclass(frozen=True)
class Scores:
    """The four numbers of one system on one set of records, with how many are behind each."""

    rel: Mean
    gen: Mean
    loc: Mean
    portability: Mean

    @property
    def avg(self) -> float | None:
        """mean(Rel, Gen, Loc); None where one is absent: two do not compare to published Avg."""
        parts = [m.value for m in (self.rel, self.gen, self.loc) if m.value is not None]
        return sum(parts) / 3 if len(parts) == 3 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for the summary JSON: rel, gen, loc, avg, portability, counts."""
        names = ("rel", "gen", "loc", "portability")
        fields: dict[str, Mean] = {name: getattr(self, name) for name in names}
        values = {name: mean.value for name, mean in fields.items()}
        counts = {name: mean.records for name, mean in fields.items()}
        return {**values, "avg": self.avg, "counts": counts}


def scores(
    rel: ArrayLike, gen: ArrayLike, loc: ArrayLike, portability: ArrayLike | None = None
) -> Scores:
    """Macro-average per-record scores, each `[N]` float with NaN where a record lacks the field."""
    return Scores(
        rel=macro_average(rel),
        gen=macro_average(gen),
        loc=macro_average(loc),
        portability=macro_average([] if portability is None else portability),
    )
