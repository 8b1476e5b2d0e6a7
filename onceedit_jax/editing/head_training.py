"""Learns a relation head: texts of one relation together, those of other relations apart."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.editing.head_settings import HeadSettings
from onceedit_jax.gates.relation_head import RelationHead, evidence, relation_vectors, unit

HARDEST = 5  # of the other relations, those nearest to a text
FAR = -1e9
RIDGE, NEWTON_STEPS = 1e-4, 50


class Projection(NamedTuple):
    """What a head is made of before it is calibrated: see `RelationHead`."""

    mean: Float[np.ndarray, "states"]
    scale: Float[np.ndarray, "states"]
    matrix: Float[Array, "states relation"]


def learn_projection(
    states: Float[np.ndarray, "texts states"],
    relations: Int[np.ndarray, "texts"],
    near: Bool[np.ndarray, "relations relations"],
    settings: HeadSettings,
    *,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Projection:
    """Learn a map to vectors whose cosine tells relations apart.

    A step draws two texts of every relation. They are pulled together, and pushed away from the
    texts of relations that the same subjects may have.

    Args:
      states: of N texts.
      relations: the number of each text's relation, from 0.
      near: which relations a subject may have together.
      settings: how it is learnt.
      on_step: called with steps done and all steps, now and then.
    """
    mean, scale = states.mean(axis=0), states.std(axis=0) + 1e-6
    normalised = jnp.asarray((states - mean) / scale, jnp.float32)
    count, size = int(relations.max()) + 1, states.shape[1]
    rng = np.random.default_rng(settings.seed)
    projection = rng.normal(size=(size, settings.width)).astype(np.float32) / size**0.5
    params = {"projection": jnp.asarray(projection), "slope": 5.0, "bias": 0.0}
    params = jax.tree.map(partial(jnp.asarray, dtype=jnp.float32), params)
    rate = optax.cosine_decay_schedule(settings.learning_rate, settings.steps)
    optimizer = optax.adamw(rate, weight_decay=settings.weight_decay)
    moments = optimizer.init(params)
    places = [np.flatnonzero(relations == number) for number in range(count)]
    others = jnp.asarray(near & ~np.eye(count, dtype=bool))

    @jax.jit
    def step(params: Any, moments: Any, pairs: jax.Array, key: jax.Array) -> Any:
        gradient = jax.grad(_loss)(params, normalised[pairs], others, key, settings)
        changes, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, changes), moments

    for done in range(settings.steps):
        pairs = np.stack([rng.choice(own, size=2, replace=len(own) < 2) for own in places])
        key = jax.random.fold_in(jax.random.key(settings.seed), done)
        params, moments = step(params, moments, jnp.asarray(pairs), key)
        if done % 50 == 49:
            on_step(done + 1, settings.steps)
    return Projection(mean, scale, params["projection"])


def with_bank(
    projection: Projection,
    states: Float[np.ndarray, "texts states"],
    relations: Int[np.ndarray, "texts"],
) -> RelationHead:
    """A head with the mean vectors of all relations, not yet calibrated.

    Args:
      projection: the map.
      states: of N texts.
      relations: the number of each text's relation, from 0; every relation has a text.
    """
    size = projection.matrix.shape[1]
    nothing = jnp.zeros((1, size))
    head = RelationHead(
        jnp.asarray(projection.mean, jnp.float32),
        jnp.asarray(projection.scale, jnp.float32),
        projection.matrix,
        nothing,
        jnp.array([1.0, 0.0]),
        jnp.float32(0),
    )
    vectors = np.asarray(relation_vectors(head, jnp.asarray(states)))
    sums = np.zeros((int(relations.max()) + 1, size), np.float32)
    np.add.at(sums, relations, vectors)
    return head._replace(bank=unit(jnp.asarray(sums)))


def calibrated(
    head: RelationHead,
    states: Float[np.ndarray, "texts states"],
    relations: Int[np.ndarray, "texts"],
    near: Bool[np.ndarray, "relations relations"],
) -> RelationHead:
    """The head with weights and bias by logistic regression on texts that were not learnt from.

    Pairs of texts of one relation and of two near ones have the same weight together, so that a
    likeness of one half is the point where both mistakes cost the same (Platt's scaling).

    Args:
      head: the head.
      states: of N texts.
      relations: the number of each text's relation.
      near: which relations a subject may have together.
    """
    same, apart = text_pairs(relations, near)
    vectors = relation_vectors(head, jnp.asarray(states))
    found = np.asarray(evidence(head, vectors, vectors), np.float64)
    weights, bias = logistic_fit(found[same], found[apart])
    return head._replace(weights=jnp.asarray(weights, jnp.float32), bias=jnp.float32(bias))


def text_pairs(
    relations: Int[np.ndarray, "texts"], near: Bool[np.ndarray, "relations relations"]
) -> tuple[Bool[np.ndarray, "texts texts"], Bool[np.ndarray, "texts texts"]]:
    """Which pairs of texts ask for one relation, and which for two that a subject may have."""
    same = relations[:, None] == relations
    apart = near[relations[:, None], relations] & ~same
    return same & ~np.eye(len(relations), dtype=bool), apart


def logistic_fit(
    positive: Float[np.ndarray, "positives features"],
    negative: Float[np.ndarray, "negatives features"],
) -> tuple[Float[np.ndarray, "features"], float]:
    """Weights and bias of the logit of being positive, both sides weighing the same (by Newton)."""
    sizes = [len(positive), len(negative)]
    values = np.concatenate([positive, negative])
    features = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    labels, shares = (
        np.repeat([1.0, 0.0], sizes),
        np.repeat([0.5 / max(n, 1) for n in sizes], sizes),
    )
    fitted = np.zeros(features.shape[1])
    ridge = RIDGE * np.eye(len(fitted))
    for _ in range(NEWTON_STEPS):
        chance = 1 / (1 + np.exp(-features @ fitted))
        gradient = features.T @ (shares * (chance - labels)) + ridge @ fitted
        curvature = (features.T * (shares * chance * (1 - chance))) @ features + ridge
        fitted -= np.linalg.solve(curvature, gradient)
    return fitted[:-1], float(fitted[-1])


def _loss(
    params: Any,
    pairs: Float[Array, "relations pair states"],
    others: Bool[Array, "relations relations"],
    key: jax.Array,
    settings: HeadSettings,
) -> jax.Array:
    """Logistic loss of pairs and of the nearest other relations, and a contrast over all."""
    kept = jax.random.bernoulli(key, 1 - settings.dropout, pairs.shape)
    vectors = jnp.where(kept, pairs / (1 - settings.dropout), 0.0) @ params["projection"]
    vectors = vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)
    cosine = vectors[:, 0] @ vectors[:, 1].T
    logits = params["slope"] * cosine + params["bias"]
    together = jax.nn.softplus(-jnp.diag(logits)).mean()
    count = min(HARDEST, cosine.shape[0])
    nearest = jax.lax.top_k(jnp.where(others, logits, FAR), count)[0]
    apart = jax.nn.softplus(nearest).mean()
    table = 2 * params["slope"] * cosine
    allowed = others | jnp.eye(cosine.shape[0], dtype=bool)
    contrast = jax.nn.logsumexp(jnp.where(allowed, table, FAR), axis=1) - jnp.diag(table)
    return together + apart + settings.contrast * contrast.mean()
