"""Fits a gate to an edited plug-in and calibrates its thresholds; scores prompts in batches."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from onceedit_jax.gates.calibration import calibrate_threshold, calibrate_trust
from onceedit_jax.gates.fact_memory import NO_WORD, TEXTS
from onceedit_jax.gates.types import EDIT, UNRELATED, FittedGate, Gate, GateFeatures

# From places among N prompts to their weight_logit `[n]` and hidden `[n, D]`, None if not read.
Reader = Callable[[Int[np.ndarray, "chosen"]], tuple[Any, Any]]


def fit_gate(gate: Gate, features: GateFeatures, labels: Int[np.ndarray, "batch"]) -> FittedGate:
    """Fit a gate, and calibrate its thresholds on its own alphas.

    Args:
      gate: the gate.
      features: of N rows, `keys` and `held_out` among them.
      labels: `[N]` int32, see `onceedit_jax.gates.types`.

    Returns:
      The gate with its state and thresholds.
    """
    state = gate.fit(features, labels)
    if gate.threshold is not None:
        return FittedGate(gate, state, gate.threshold)
    assert features.held_out is not None
    alphas = alphas_of(gate, state, features)
    edits = alphas[labels == EDIT]
    others = alphas[(labels == UNRELATED) & features.held_out]
    return FittedGate(
        gate, state, calibrate_threshold(edits, others), calibrate_trust(edits, others)
    )


def alphas_of(gate: Gate, state: Any, features: GateFeatures) -> Float[np.ndarray, "batch"]:
    """Alpha of rows whose features are all known, `[N]` float32."""

    def read(chosen: np.ndarray) -> tuple[Any, Any]:
        parts = features.weight_logit, features.hidden
        weight_logit, hidden = (None if p is None else np.asarray(p)[chosen] for p in parts)
        return weight_logit, hidden

    return score_prompts(gate, state, np.asarray(features.words), read)


def score_prompts(
    gate: Gate, state: Any, words: Int[np.ndarray, "batch words"], read: Reader
) -> Float[np.ndarray, "batch"]:
    """Alpha of N prompts; the plug-in reads only those that may open the gate.

    Args:
      gate: the gate.
      state: its state.
      words: `[N, T]` word ids of the prompts.
      read: reads some of the prompts with the plug-in, given their places.

    Returns:
      `[N]` float32.
    """
    may_open = np.ones(len(words), bool)
    if gate.may_open is not None:
        may_open = _in_batches(partial(_may_open, gate, state), words)
    chosen = np.flatnonzero(may_open)
    alphas = np.zeros(len(words), np.float32)
    if not len(chosen):
        return alphas
    weight_logit, hidden = read(chosen) if gate.reads else (None, None)
    alphas[chosen] = _in_batches(partial(_score, gate, state), words[chosen], weight_logit, hidden)
    return alphas


@partial(jax.jit, static_argnums=0)
def _may_open(gate: Gate, state: Any, words: Int[jax.Array, "batch words"]) -> Any:
    assert gate.may_open is not None
    return gate.may_open(state, words)


@partial(jax.jit, static_argnums=0)
def _score(
    gate: Gate, state: Any, words: Int[jax.Array, "batch words"], weight_logit: Any, hidden: Any
) -> Any:
    return gate.score(state, GateFeatures(words, weight_logit, hidden))


def _in_batches(function: Callable[..., Any], words: np.ndarray, *others: Any) -> Any:
    """A function of rows, in calls of one height and few widths."""
    results = []
    for start in range(0, len(words), TEXTS):
        rows = slice(start, start + TEXTS)
        height = len(words[rows])
        parts = [None if o is None else _filled(np.asarray(o)[rows], TEXTS, 0) for o in others]
        results.append(np.asarray(function(_filled(words[rows], TEXTS, NO_WORD), *parts))[:height])
    return np.concatenate(results)


def _filled(rows: np.ndarray, height: int, value: int) -> np.ndarray:
    padding = [(0, height - len(rows))] + [(0, 0)] * (rows.ndim - 1)
    return np.pad(rows, padding, constant_values=value)
