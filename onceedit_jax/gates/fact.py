"""The gate `fact`: an edit speaks where its subject is named AND its relation is asked for."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.errors import InputError
from onceedit_jax.gates.relation_head import RelationHead, likeness, relation_vectors
from onceedit_jax.gates.types import EDIT, NOTHING, UNLABELLED, FittedGate, Gate, GateFeatures
from onceedit_jax.types import AnyArray

THRESHOLD = 0.7  # of the likeness: chosen on facts for development, see docs/concepts/gate.md
TRUST = 0.9
NO_HEAD = (
    "the gate fact needs a relation head, and this plug-in was edited without one: learn one for "
    "its base model (`onceedit gate-train`) and edit again, or choose another gate"
)

State = Mapping[str, Any]


@cache
def fact() -> Gate:
    """The default: alpha is how likely a prompt asks for the relation of an edit that it names.

    0 where no edit's subject is named. Nothing is learnt for an edit, and each edit's alpha depends
    on this edit and the prompt alone, so that new edits leave those of the others as they were. The
    relation head is the plug-in's own.
    """
    return _with_head(_no_head)


def fact_with(head: RelationHead) -> Gate:
    """The gate `fact` with a relation head; it equals `fact()`."""
    return _with_head(partial(fit_fact, head))


def _with_head(fit: Callable[[GateFeatures, Int[np.ndarray, "batch"]], Any]) -> Gate:
    return Gate(
        "fact",
        fit,
        _score,
        reads=frozenset({"relation"}),
        may_open=names_subject,
        means=edit_meant,
        threshold=THRESHOLD,
        trust_threshold=TRUST,
    )


def _no_head(features: GateFeatures, labels: Int[np.ndarray, "batch"]) -> Any:
    raise InputError(NO_HEAD)


def fit_fact(
    head: RelationHead, features: GateFeatures, labels: Int[np.ndarray, "batch"]
) -> dict[str, Any]:
    """The relation vectors of the edits.

    Args:
      head: the relation head.
      features: of N rows. `subjects` and `relation` are needed; an edit's own subject is the first
        that its row names.
      labels: `[N]`; rows that are `EDIT` or `UNLABELLED` are edits.

    Returns:
      `head`; `keys` `[E, R]` float32, the relation vectors of E edits; `subjects` `[E]` int32, the
      number of each one's subject.
    """
    edits = np.isin(labels, (EDIT, UNLABELLED))
    keys = relation_vectors(head, jnp.asarray(np.asarray(features.relation)[edits, 0]))
    return {"head": head, "keys": keys, "subjects": np.asarray(features.subjects)[edits, 0]}


def fitted_fact(state: State, qualifiers: Int[AnyArray, "edits 2 words"]) -> FittedGate:
    """The gate as it was fitted, with the qualifiers that the edits ask with.

    Args:
      state: from `fit_fact`; entries of other names are left out.
      qualifiers: `[E, 2, W]`, see `GateFeatures.qualifiers`. They come from the edits' prompts and
        are not kept with the state.
    """
    kept = {name: state[name] for name in ("head", "keys", "subjects")}
    return FittedGate(fact(), {**kept, "qualifiers": qualifiers}, THRESHOLD, TRUST)


def names_subject(state: State, features: GateFeatures) -> Bool[Array, "batch"]:
    """Whether each prompt names the subject of an edit."""
    return (jnp.asarray(features.subjects) != NOTHING).any(axis=-1)


@jax.jit
def edit_likeness(state: State, features: GateFeatures) -> Float[Array, "batch edits"]:
    """How likely each prompt asks for each edit's fact, `[B, E]`.

    0 where its subject is not named, or is asked about with other qualifiers than the edit's: for
    an earlier fact, or for somebody else's.
    """
    head: RelationHead = state["head"]
    asked = relation_vectors(head, jnp.asarray(features.relation))  # [B, M, R]
    likely = likeness(head, asked, state["keys"])  # [B, M, E]
    named = jnp.asarray(features.subjects)[:, :, None] == state["subjects"]
    if features.qualifiers is not None and "qualifiers" in state:
        asked_bits = jnp.asarray(features.qualifiers)[:, :, None]  # [B, M, 1, 2, W]
        named &= same_qualifiers(asked_bits, jnp.asarray(state["qualifiers"]))
    likeliest: jax.Array = jnp.where(named, likely, 0.0).max(axis=1, initial=0.0)
    return likeliest


def same_qualifiers(
    some: Int[AnyArray, "... 2 words"], others: Int[AnyArray, "... 2 words"]
) -> Bool[AnyArray, "..."]:
    """Whether texts mention each other's qualifiers, see `GateFeatures.qualifiers`.

    Args:
      some: `[..., 2, W]`, of some texts.
      others: of others; leading axes are broadcast.
    """
    missing = (some[..., 0, :] & ~others[..., 1, :]) | (others[..., 0, :] & ~some[..., 1, :])
    return (missing == 0).all(axis=-1)


def edit_meant(state: State, features: GateFeatures) -> Int[Array, "batch"]:
    """The place of the edit that each prompt most likely means, `[B]` int32; `NOTHING` for none."""
    alphas = edit_likeness(state, features)
    best = jnp.argmax(alphas, axis=-1).astype(jnp.int32)
    return jnp.where(alphas.max(axis=-1, initial=0.0) > 0, best, NOTHING)


def _score(state: State, features: GateFeatures) -> jax.Array:
    alphas: jax.Array = edit_likeness(state, features).max(axis=-1, initial=0.0)
    return alphas
