"""The memory of edits: which prompts name the subject of an edit. It is ours, not the paper's.

[WEIGHT] is learnt, and takes many texts that look like an edit for one. The memory holds the words
that single each edit out. A text without the words of any edit concerns none of them.
"""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.distributed.bucketing import doubling
from onceedit_jax.gates.calibration import reach_evidence, reach_threshold
from onceedit_jax.gates.types import EDIT, NOTHING, UNRELATED, Gate, GateFeatures
from onceedit_jax.gates.weight_token import alpha

TEXTS = 64  # texts that one compiled call reads

State = Mapping[str, Any]


@cache
def memory() -> Gate:
    """Alpha is 1 where a prompt names an edit's subject and 0 elsewhere. Nothing is learnt."""
    return Gate("memory", fit_memory, _score_memory, may_open=_may_open)


@cache
def both() -> Gate:
    """[WEIGHT] and the memory, weighed by Bayes' rule.

    The two are taken for independent witnesses. That an edit is in reach adds its log-likelihood
    ratio to what [WEIGHT] says; out of reach alpha is 0.
    """
    return Gate(
        "both", fit_memory, _score_both, reads=frozenset({"weight_logit"}), may_open=_may_open
    )


def fit_memory(features: GateFeatures, labels: Int[np.ndarray, "batch"]) -> dict[str, Any]:
    """Build the memory from the edits' keys, and calibrate it on held-out rows.

    A word is worth its inverse document frequency over all rows that are not held out, so that
    "HD 180902" weighs more than "which".

    Args:
      features: of N rows; rows with a key are edits. `keys` and `held_out` are needed.
      labels: `[N]`.

    Returns:
      `words` `[E, K]` int32 and `weights` `[E, K]` float32, the keys of E edits and what each of
      their words is worth; `threshold` and `evidence`, float32, see `reach_threshold` and
      `reach_evidence`.
    """
    assert features.keys is not None and features.held_out is not None
    keys, held_out = np.asarray(features.keys), np.asarray(features.held_out)
    words = np.asarray(features.words)
    keys = keys[(keys != NOTHING).any(axis=1)]
    width = max(1, int((keys != NOTHING).sum(axis=1).max(initial=0)))
    ids, weights = keys[:, :width], _rarity(keys[:, :width], words[~held_out])
    state = {"words": jnp.asarray(ids), "weights": jnp.asarray(weights)}
    reached = reaches(state, words)
    unrelated = (np.asarray(labels) == UNRELATED) & held_out
    threshold = reach_threshold(reached[unrelated])
    near = reached >= threshold
    return {
        **state,
        "threshold": jnp.float32(threshold),
        "evidence": jnp.float32(reach_evidence(near[np.asarray(labels) == EDIT], near[unrelated])),
    }


def _rarity(keys: np.ndarray, words: np.ndarray) -> np.ndarray:
    """Weights `[E, K]` float32 of the words of each key, which sum to 1."""
    ordered = np.sort(words, axis=1)
    first = np.diff(ordered, axis=1, prepend=NOTHING) != 0  # a word counts once in a text
    found, counts = np.unique(ordered[first & (ordered != NOTHING)], return_counts=True)
    seen = dict(zip(found.tolist(), counts.tolist(), strict=True))
    weights = np.zeros(keys.shape, np.float32)
    for row, key in enumerate(keys.tolist()):
        chosen = [word for word in key if word != NOTHING]
        rarity = np.array([math.log((2 + len(words)) / (1 + seen.get(word, 0))) for word in chosen])
        weights[row, : len(chosen)] = rarity / rarity.sum()
    return weights


@jax.jit
def reach(memory: State, words: Int[Array, "batch words"]) -> Float[Array, "batch"]:
    """How much of the nearest edit's key each text holds.

    Args:
      memory: `{"words": [E, K] int32, "weights": [E, K] float32}`, for each of E edits the ids of
        its key's words (`NOTHING` fills up) and what each is worth; a key's weights sum to 1.
      words: `[B, T]` int32, the word ids of B texts (`NOTHING` fills up).

    Returns:
      `[B]` float32 in [0, 1]: 1 where a text holds every word of some edit's key.
    """
    keys, weights = jnp.asarray(memory["words"]), jnp.asarray(memory["weights"], jnp.float32)

    def of_text(text: jax.Array) -> jax.Array:
        held = jnp.isin(keys, text) & (keys != NOTHING)
        return jnp.max(jnp.sum(jnp.where(held, weights, 0.0), axis=-1), initial=0.0)

    # One text at a time: [E, K] is the largest array, however many texts there are.
    shares: jax.Array = jax.lax.map(of_text, words)
    return shares


def reaches(memory: State, words: Int[np.ndarray, "batch words"]) -> Float[np.ndarray, "batch"]:
    """`reach` of any number of texts, in calls of bucketed shape: `[B]` float32."""
    table = {name: memory[name] for name in ("words", "weights")}
    results = [np.zeros(0, np.float32)]
    for start in range(0, len(words), TEXTS):
        part = np.asarray(words[start : start + TEXTS])
        longest = int((part != NOTHING).sum(axis=1).max(initial=0))
        width = doubling(longest, smallest=32)
        filled = np.full((TEXTS, width), NOTHING, np.int32)
        filled[: len(part), : min(width, part.shape[1])] = part[:, :width]
        results.append(np.asarray(reach(table, filled))[: len(part)])
    return np.concatenate(results)


def in_reach(state: State, words: Int[Array, "batch words"]) -> Bool[Array, "batch"]:
    """Whether each text holds enough of some edit's key."""
    held = reach({name: state[name] for name in ("words", "weights")}, words)
    near: jax.Array = held >= state["threshold"]
    return near


def weigh(
    logit: Float[Array, "*batch"],
    near: Bool[Array, "*batch"],
    evidence: float | Float[Array, ""],
) -> Float[Array, "*batch"]:
    """Alpha from both witnesses: sigmoid(logit + evidence) in reach, and 0 outside.

    Args:
      logit: logit_w, `[...]`.
      near: whether the memory knows an edit that a text may concern, `[...]` bool.
      evidence: log of how much likelier an edit's prompt is to be in reach than another text.
    """
    return jnp.where(near, alpha(logit + evidence), 0.0)


def _may_open(state: State, features: GateFeatures) -> jax.Array:
    return in_reach(state, jnp.asarray(features.words))


def _score_memory(state: State, features: GateFeatures) -> jax.Array:
    return jnp.where(in_reach(state, jnp.asarray(features.words)), 1.0, 0.0)


def _score_both(state: State, features: GateFeatures) -> jax.Array:
    near = in_reach(state, jnp.asarray(features.words))
    return weigh(jnp.asarray(features.weight_logit), near, state["evidence"])
