"""Fits a gate to an edited plug-in and calibrates its thresholds; scores prompts in batches."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from onceedit_jax.gates.calibration import calibrate_threshold, calibrate_trust
from onceedit_jax.gates.types import EDIT, NOTHING, UNRELATED, FittedGate, Gate, GateFeatures

PROMPTS = 64  # that one compiled call scores

# From places among N prompts to all that the gate reads of these.
Reader = Callable[[Int[np.ndarray, "chosen"]], GateFeatures]


class Verdicts(NamedTuple):
    """What a gate says of N prompts.

    Attributes:
      alphas: `[N]` float32.
      edits: `[N]` int32, the place of the edit that each prompt asks for; `NOTHING` where it asks
        for none, or the gate does not know.
    """

    alphas: Float[np.ndarray, "prompts"]
    edits: Int[np.ndarray, "prompts"]


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
        return FittedGate(gate, state, gate.threshold, gate.trust_threshold)
    assert features.held_out is not None
    alphas = score_prompts(gate, state, features).alphas
    edits = alphas[labels == EDIT]
    others = alphas[(labels == UNRELATED) & features.held_out]
    return FittedGate(
        gate, state, calibrate_threshold(edits, others), calibrate_trust(edits, others)
    )


def score_prompts(
    gate: Gate, state: Any, features: GateFeatures, read: Reader | None = None
) -> Verdicts:
    """Alpha of N prompts; a model reads only those that may open the gate.

    Args:
      gate: the gate.
      state: its state.
      features: of the N prompts, as far as they cost no model: `words`, and `subjects`.
      read: reads all features of some prompts, given their places (default: `features` has all).
    """
    count = len(features.words)
    may_open = np.ones(count, bool)
    if gate.may_open is not None:
        may_open = _in_batches(partial(_may_open, gate, state), features)
    chosen = np.flatnonzero(may_open)
    verdicts = Verdicts(np.zeros(count, np.float32), np.full(count, NOTHING, np.int32))
    if not len(chosen):
        return verdicts
    features = read(chosen) if read and gate.reads else _rows(features, chosen)
    alphas, edits = _in_batches(partial(_score, gate, state), features)
    verdicts.alphas[chosen], verdicts.edits[chosen] = alphas, edits
    return verdicts


@partial(jax.jit, static_argnums=0)
def _may_open(gate: Gate, state: Any, features: GateFeatures) -> Any:
    assert gate.may_open is not None
    return gate.may_open(state, features)


@partial(jax.jit, static_argnums=0)
def _score(gate: Gate, state: Any, features: GateFeatures) -> Any:
    alphas = gate.score(state, features)
    none = jnp.full(alphas.shape, NOTHING, jnp.int32)
    return alphas, none if gate.means is None else gate.means(state, features)


def _rows(features: GateFeatures, chosen: Any) -> GateFeatures:
    kept: GateFeatures = jax.tree.map(lambda array: np.asarray(array)[chosen], features)
    return kept


def _in_batches(function: Callable[..., Any], features: GateFeatures) -> Any:
    """A function of rows, in calls of one height and few widths."""
    # Only `fit` reads these.
    features = features._replace(keys=None, held_out=None)
    results = []
    for start in range(0, len(features.words), PROMPTS):
        part = _rows(features, slice(start, start + PROMPTS))
        results.append(_cut(function(jax.tree.map(_filled, part)), len(part.words)))
    return jax.tree.map(lambda *parts: np.concatenate(parts), *results)


def _cut(tree: Any, count: int) -> Any:
    return jax.tree.map(lambda rows: np.asarray(rows)[:count], tree)


def _filled(rows: np.ndarray) -> np.ndarray:
    padding = [(0, PROMPTS - len(rows))] + [(0, 0)] * (rows.ndim - 1)
    fill = NOTHING if np.issubdtype(rows.dtype, np.integer) else 0
    return np.pad(rows, padding, constant_values=fill)
