"""Relative representations: each model's tokens in the space of shared anchors (DeePEn, section 3).

Both normalisations are one formula, `R[v, a] = exp(s_v * C[v, a] - log_normalizer_v)`, with
C the cosine of token v and anchor a in the model's own input embeddings:

- `deepen`: raw embeddings, `s_v = 100 / ||C_v||_2`, which is DeePEn's softmax at temperature 100
  over L2-normalised rows;
- `centered`: the mean embedding is subtracted first and `s_v` is one temperature for the model.

Here R is dense; `table_building` reduces it to tables (see `tables`), and these are what is used.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.errors import InputError
from onceedit_jax.relative.options import Normalization
from onceedit_jax.relative.tables import (
    BLOCK,
    cosine,
    is_token,
    scaled_cosine,
)

DEEPEN_TEMPERATURE = 100.0
TEMPERATURES = (1.0, 200.0)
SELF_MASS = 0.99
SAMPLE = 512  # rows that a mean over a model's tokens is taken from
LEAST_SHARED = 1e-12  # mass of a distribution under which what is shared is not scaled to one
_EPS = 1e-12


def transfer_matrix(
    embeddings: jax.Array,
    anchor_ids: jax.Array,
    *,
    normalization: Normalization = "centered",
    temperature: float | None = None,
    num_tokens: int | None = None,
) -> jax.Array:
    """R, dense: the definition that every table is tested against (DeePEn, equations 2 to 4).

    Args:
      embeddings: `[V, D]` input embeddings.
      anchor_ids: `[A]` int32 rows that are anchors.
      normalization: `centered`, or `deepen` as published.
      temperature: of `centered` (default: calibrated, on the host: give it under `jit`) or `deepen`
        (default: 100).
      num_tokens: rows from here on are padding.

    Returns:
      `[V, A]` float32; rows sum to one, rows that are padding or zero are zero, and so are the
      columns of anchors that are.

    Raises:
      InputError: if an anchor is no row of the embeddings.
    """
    unit = unit_embeddings(embeddings, normalization=normalization, num_tokens=num_tokens)
    if not isinstance(anchor_ids, jax.core.Tracer):
        check_anchors(anchor_ids, unit.shape[0])
    anchors = unit[jnp.asarray(anchor_ids)]
    if temperature is None:
        temperature = default_temperature(unit, anchor_ids, normalization=normalization)
    return relative_rows(unit, anchors, normalization, temperature)


def unit_embeddings(
    embeddings: jax.Array,
    *,
    normalization: Normalization = "centered",
    num_tokens: int | None = None,
) -> jax.Array:
    """Embeddings as unit rows `[V, D]` float32, the mean of real tokens taken off if centred.

    Rows that are padding or zero come out as zeros, which marks them as no token from here on.
    """
    tokens = _tokens(embeddings, num_tokens)
    origin = _origin(embeddings, tokens, normalization)
    unit: jax.Array = unit_rows(embeddings, tokens, origin)
    return unit


def default_temperature(
    unit: jax.Array, anchor_ids: ArrayLike, *, normalization: Normalization, seed: int = 0
) -> float:
    """DeePEn's 100, or for `centered` the temperature at which anchors keep .99 of their mass."""
    if normalization == "deepen":
        return DEEPEN_TEMPERATURE
    return calibrate_temperature(unit, anchor_ids, seed=seed)


def calibrate_temperature(
    unit: jax.Array,
    anchor_ids: ArrayLike,
    *,
    seed: int = 0,
    self_mass: float = SELF_MASS,
    bounds: tuple[float, float] = TEMPERATURES,
    sample: int = SAMPLE,
) -> float:
    """The temperature of `centered` at which anchors put .99 of their rows on themselves.

    Bisected, so that the MEAN self-mass of a seeded sample of anchors is `self_mass`; a cosine is
    largest with oneself, so that the mean grows with the temperature.

    Args:
      unit: `[V, D]` from `unit_embeddings`.
      anchor_ids: `[A]` int32.
      seed: of the sample.
      self_mass: the mean asked for.
      bounds: where to look; the nearer end if no temperature in between gives that mean.
      sample: anchors looked at, at most.
    """
    anchors = unit[jnp.asarray(anchor_ids)]
    usable = np.flatnonzero(to_host(is_token(anchors)))
    own = jnp.asarray(np.sort(np.random.default_rng(seed).permutation(usable)[:sample]))
    cosines = cosine(anchors[own], anchors)
    low, high = bounds
    for _ in range(16):  # to .003
        middle = (low + high) / 2
        reached = float(_mean_self_mass(cosines, own, anchors, middle)) >= self_mass
        low, high = (low, middle) if reached else (middle, high)
    return high


def anchor_coverage(token_counts: NDArray[Any], anchor_ids: NDArray[Any]) -> float:
    """Share of a text's tokens that are anchors, from how often each token occurs, `[V]`."""
    counts = np.asarray(token_counts, np.float64)
    return float(counts[np.asarray(anchor_ids)].sum() / max(counts.sum(), 1.0))


def exact_relative(
    probabilities: jax.Array,
    embeddings: jax.Array,
    anchor_ids: ArrayLike,
    *,
    normalization: Normalization,
    temperature: float,
    num_tokens: int | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> jax.Array:
    """`p R` in float32 with every entry of R, of which one block exists at a time.

    What a table is held against; for all distributions at once it costs one pass.

    Args:
      probabilities: p, `[B, V]`.
      embeddings: `[V, D]`, as for `build_table`.
      anchor_ids: `[A]` int32.
      normalization: `centered` or `deepen`.
      temperature: as the table's health says.
      num_tokens: rows from here on are padding.
      on_block: told (blocks done, blocks in all).

    Returns:
      `[B, A]` float32.

    Raises:
      InputError: if an anchor is no row of the embeddings.
    """
    embeddings, ids = jnp.asarray(embeddings), np.asarray(anchor_ids)
    check_anchors(ids, len(embeddings))
    tokens, origin, anchors = frame(embeddings, ids, normalization, num_tokens)
    total, size = len(embeddings), min(BLOCK, len(embeddings))
    sums = jnp.zeros((len(probabilities), len(ids)), jnp.float32)
    for start in range(0, total, size):
        first = min(start, total - size)  # the last block starts early enough to be whole
        rows = slice(first, first + size)
        fresh = np.arange(first, first + size) >= start
        unit = unit_rows(embeddings[rows], tokens[rows] & fresh, origin)
        sums = _add_block(sums, probabilities[:, rows], unit, anchors, temperature, normalization)
        on_block(start // size + 1, -(-total // size))
    return sums


@partial(jax.jit, static_argnames="normalization", donate_argnums=0)
def _add_block(
    sums: jax.Array,
    probabilities: jax.Array,
    unit: jax.Array,
    anchors: jax.Array,
    temperature: float | jax.Array,
    normalization: Normalization,
) -> jax.Array:
    rows = relative_rows(unit, anchors, normalization, temperature)
    return sums + jnp.matmul(probabilities, rows, precision="highest")


def to_vocabulary(probabilities: jax.Array, target_ids: jax.Array, size: int) -> jax.Array:
    """`p M`: a plug-in's distribution moved to the target's vocabulary, token by token.

    Each plug-in token gives its mass to one target token (itself where both share it, else the
    first token of its text). Mass of tokens that have none (id -1) is dropped, and what is left
    is scaled back to one, unless next to nothing is (`LEAST_SHARED`).

    Args:
      probabilities: `[B, Vs]`.
      target_ids: `[Vs]` int32, -1 for nowhere.
      size: Vl.

    Returns:
      `[B, Vl]` float32.
    """
    mass = jnp.where(target_ids >= 0, probabilities, 0.0)
    columns = jnp.maximum(target_ids, 0)

    def scatter(row: jax.Array) -> jax.Array:
        return jnp.zeros(size, jnp.float32).at[columns].add(row)

    moved = jax.vmap(scatter)(mass)
    return moved / jnp.maximum(jnp.sum(moved, axis=1, keepdims=True), LEAST_SHARED)


def check_anchors(anchor_ids: Any, total: int) -> None:
    """Make sure that every anchor is one of `total` rows.

    Raises:
      InputError: one is not.
    """
    ids = np.asarray(anchor_ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < total):
        raise InputError(
            f"anchor ids run from {ids.min()} to {ids.max()}, but the embeddings have rows 0 to "
            f"{total - 1}: the tokenizer is of another model"
        )


def relative_rows(
    rows: jax.Array,
    anchors: jax.Array,
    normalization: Normalization,
    temperature: float | jax.Array,
) -> jax.Array:
    """Rows of R, `[N, A]`; zeros where there is no token."""
    logits = relative_logits(rows, anchors, normalization, temperature)[0]
    return jnp.where(is_token(rows)[:, None], jax.nn.softmax(logits, axis=1), 0.0)


def relative_logits(
    rows: jax.Array,
    anchors: jax.Array,
    normalization: Normalization,
    temperature: float | jax.Array,
    measure: Callable[[jax.Array, jax.Array], jax.Array] = cosine,
) -> tuple[jax.Array, jax.Array]:
    """Exponents `s_v * C[v, a]` of rows of R, `[N, A]`, and s_v, `[N]`."""
    cosines = measure(rows, anchors)
    if normalization == "deepen":
        scale = temperature / jnp.maximum(jnp.linalg.norm(cosines, axis=1), _EPS)
    else:
        scale = jnp.full(rows.shape[0], temperature, cosines.dtype)
    return scaled_cosine(cosines, scale, anchors), scale


@jax.jit
def _mean_self_mass(
    cosines: jax.Array, own: jax.Array, anchors: jax.Array, temperature: float | jax.Array
) -> jax.Array:
    logits = scaled_cosine(cosines, jnp.full(own.shape[0], temperature, cosines.dtype), anchors)
    at_own = jnp.take_along_axis(logits, own[:, None], axis=1)[:, 0]
    return jnp.mean(jnp.exp(at_own - jax.nn.logsumexp(logits, axis=1)))


def frame(
    embeddings: jax.Array,
    anchor_ids: NDArray[np.int32],
    normalization: Normalization,
    num_tokens: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which rows are tokens `[V]`, the origin of directions `[D]`, the anchors' own `[A, D]`."""
    tokens = _tokens(embeddings, num_tokens)
    origin = _origin(embeddings, tokens, normalization)
    return tokens, origin, unit_rows(embeddings[anchor_ids], tokens[anchor_ids], origin)


@partial(jax.jit, static_argnames="num_tokens")
def _tokens(embeddings: jax.Array, num_tokens: int | None) -> jax.Array:
    """`[V]` bool: rows of the table that are a token's."""
    tokens = jnp.any(embeddings != 0, axis=1)
    return tokens if num_tokens is None else tokens & (jnp.arange(len(tokens)) < num_tokens)


@partial(jax.jit, static_argnames="normalization")
def _origin(embeddings: jax.Array, tokens: jax.Array, normalization: Normalization) -> jax.Array:
    """`[D]` float32: what directions are measured from, the mean token or zero."""
    if normalization == "deepen":
        return jnp.zeros(embeddings.shape[1], jnp.float32)
    rows = jnp.where(tokens[:, None], embeddings.astype(jnp.float32), 0.0)
    return jnp.sum(rows, axis=0) / jnp.sum(tokens)


@jax.jit
def unit_rows(rows: jax.Array, tokens: jax.Array, origin: jax.Array) -> jax.Array:
    """Directions `[N, D]` float32 of embeddings from the origin; zeros where there is no token."""
    rows = rows.astype(jnp.float32) - origin
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.where(tokens[:, None], rows / jnp.maximum(length, _EPS), 0.0)
