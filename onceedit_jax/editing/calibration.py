"""Fixes the gate's threshold on rows that are neither trained on nor evaluated."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.gates.token import gate_logit
from onceedit_jax.models.config import ModelConfig


def token_logits(
    params: Any, gate: Any, config: ModelConfig, prompts: Sequence[Sequence[int]]
) -> NDArray[np.float32]:
    """logit_w of each prompt (token ids), read at its last token: `[N]` float32."""
    if not prompts:
        return np.zeros(0, np.float32)
    states = jnp.asarray(states_after(params, config, prompts))
    return to_host(gate_logit(gate, states))


def reach_evidence(edits: ArrayLike, held_back: ArrayLike) -> float:
    """How much being in reach speaks for an edit: the log of the ratio of two shares.

    Half a text is added on either side of both, so that a few rows never make it certain.

    Args:
      edits: which of the edits' prompts are in reach, bool.
      held_back: which of the held-back unrelated rows are.
    """
    shares = [
        (np.sum(rows) + 0.5) / (np.size(rows) + 1)
        for rows in (np.asarray(edits, bool), np.asarray(held_back, bool))
    ]
    return round(float(np.log(shares[0] / shares[1])), 6)


def calibrate_threshold(
    edits: ArrayLike, held_back: ArrayLike, *, low: float = 0.1, high: float = 0.9
) -> float:
    """The alpha under which a target is left alone.

    Halfway, in logits, between the held-back unrelated rows (their 95th percentile: the last few
    may be near an edit by chance) and the lowest edit, kept inside `[low, high]`: paraphrases
    score under their edits, so that a threshold close to the edits would lose them.

    Args:
      edits: alphas of the edits' own prompts.
      held_back: alphas of the held-back unrelated rows; without any the result is 1/2.
      low: lowest threshold.
      high: highest threshold.
    """
    edits, held_back = np.asarray(edits, float), np.asarray(held_back, float)
    if held_back.size == 0 or edits.size == 0:
        return 0.5
    middle = (_logit(edits.min()) + _logit(np.quantile(held_back, 0.95))) / 2
    return round(float(np.clip(1 / (1 + np.exp(-middle)), low, high)), 6)


def calibrate_trust(
    edits: ArrayLike, held_back: ArrayLike, *, low: float = 0.9, high: float = 0.99
) -> float:
    """The alpha from which a draft may be taken without asking the target.

    Halfway, in logits, between the highest held-back unrelated row and the edits' median, kept
    inside `[low, high]`: a row above `high` is taken for an edit, as it is by the gate.
    """
    edits, held_back = np.asarray(edits, float), np.asarray(held_back, float)
    if held_back.size == 0 or edits.size == 0:
        return high
    middle = (_logit(float(np.median(edits))) + _logit(held_back.max())) / 2
    return round(float(np.clip(1 / (1 + np.exp(-middle)), low, high)), 6)


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-6, 1 - 1e-6))
    return float(np.log(p / (1 - p)))
