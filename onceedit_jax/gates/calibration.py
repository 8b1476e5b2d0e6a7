"""Thresholds of a gate, fixed on rows that are neither trained on nor evaluated."""

import numpy as np
from numpy.typing import ArrayLike

WHOLE = 1 - 1e-4  # of a key: its weights are float32 and need not sum to 1


def reach_threshold(held_out: ArrayLike) -> float:
    """How much of a key a text must hold to be in an edit's reach.

    Halfway from the held-out unrelated rows (their 95th percentile) to a whole key, so at
    least half of it. A whole key is always enough, even where unrelated rows hold some edit's.
    """
    held_out = np.asarray(held_out, float)
    usual = float(np.quantile(held_out, 0.95)) if held_out.size else 0.0
    return min((usual + 1) / 2, WHOLE)


def reach_evidence(edits: ArrayLike, held_out: ArrayLike) -> float:
    """How much being in reach speaks for an edit: the log of the ratio of two shares.

    Half a text is added on either side of both, so that a few rows never make it certain.

    Args:
      edits: which of the edits' prompts are in reach, bool.
      held_out: which of the held-out unrelated rows are.
    """
    shares = [
        (np.sum(rows) + 0.5) / (np.size(rows) + 1)
        for rows in (np.asarray(edits, bool), np.asarray(held_out, bool))
    ]
    return round(float(np.log(shares[0] / shares[1])), 6)


def calibrate_threshold(
    edits: ArrayLike, held_out: ArrayLike, *, low: float = 0.1, high: float = 0.9
) -> float:
    """The alpha below which a target answers by itself.

    Halfway, in logits, between the held-out unrelated rows (their 95th percentile: the last few may
    be near an edit by chance) and the lowest edit, kept inside `[low, high]`. Paraphrases score
    below their edits, so a threshold close to the edits would lose them.

    Args:
      edits: alphas of the edits' own prompts.
      held_out: alphas of the held-out unrelated rows; without any the result is 1/2.
      low: lowest threshold.
      high: highest threshold.
    """
    edits, held_out = np.asarray(edits, float), np.asarray(held_out, float)
    if held_out.size == 0 or edits.size == 0:
        return 0.5
    middle = (_logit(edits.min()) + _logit(np.quantile(held_out, 0.95))) / 2
    return round(float(np.clip(1 / (1 + np.exp(-middle)), low, high)), 6)


def calibrate_trust(
    edits: ArrayLike, held_out: ArrayLike, *, low: float = 0.9, high: float = 0.99
) -> float:
    """The alpha from which a draft may be taken without the target's check.

    Halfway, in logits, between the highest held-out unrelated row and the edits' median, kept
    inside `[low, high]`: a row above `high` counts as an edit, as it does for the gate.
    """
    edits, held_out = np.asarray(edits, float), np.asarray(held_out, float)
    if held_out.size == 0 or edits.size == 0:
        return high
    middle = (_logit(float(np.median(edits))) + _logit(held_out.max())) / 2
    return round(float(np.clip(1 / (1 + np.exp(-middle)), low, high)), 6)


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-6, 1 - 1e-6))
    return float(np.log(p / (1 - p)))
