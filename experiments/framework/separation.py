"""How well a gate's alpha separates prompts that ask for an edit from those that do not."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

Alphas = Float[np.ndarray, "prompts"]


def area(related: Alphas, others: Alphas) -> float:
    """Chance that a related prompt has the higher alpha, ties counted half (the area under ROC)."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, related, side=side) for side in ("left", "right"))
    pairs = len(related) * len(others)
    return float(below.sum() / pairs + 0.5 * ((up_to - below).sum() / pairs))


def shut_threshold(others: Alphas, share: float) -> float:
    """The alpha that so many of the other prompts do not exceed."""
    return float(np.quantile(others, share, method="inverted_cdf"))


def reliability(related: Alphas, others: Alphas, bins: int = 10) -> list[dict[str, float]]:
    """Mean alpha and the share of related prompts, in bins of alpha that are equally wide.

    Related prompts and others have half of the weight each, however many there are.

    Returns:
      For each bin that has prompts: `alpha`, their mean alpha; `share`, that of related prompts;
      `weight`, their part of all; `prompts`, their number.
    """
    alphas = np.concatenate([related, others])
    asked = np.arange(len(alphas)) < len(related)
    weights = np.where(asked, 0.5 / max(len(related), 1), 0.5 / max(len(others), 1))
    place = np.minimum((alphas * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(place).tolist():
        inside = place == number
        weight = weights[inside].sum()
        rows.append(
            {
                "alpha": float(weights[inside] @ alphas[inside] / weight),
                "share": float(weights[inside] @ asked[inside] / weight),
                "weight": float(weight),
                "prompts": int(inside.sum()),
            }
        )
    return rows


def calibration_error(curve: Sequence[Mapping[str, float]]) -> float:
    """Expected calibration error: the mean gap between alpha and share over a curve's weights."""
    return sum(row["weight"] * abs(row["alpha"] - row["share"]) for row in curve)
