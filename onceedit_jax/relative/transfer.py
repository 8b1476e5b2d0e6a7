"""Relative representations: each model's tokens in the space of shared anchors (DeePEn, section 3).

Both normalisations are one formula, `R[v, a] = exp(s_v * C[v, a] - log_normalizer_v)`. C is the
cosine of token v and anchor a in the model's own input embeddings.

- `deepen`: raw embeddings, `s_v = 100 / ||C_v||_2`, which is DeePEn's softmax at temperature 100
  over L2-normalised rows.
- `centered`: the mean embedding is subtracted first, and `s_v` is one temperature for the model.

Here R is dense. `build` reduces it to tables (see `tables`), which fusion uses.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Real

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
SAMPLE = 512  # rows that stand for all of a model's tokens in a mean
LEAST_SHARED = 1e-12  # mass that must be shared for a distribution to be scaled to one
_EPS = 1e-12

Embeddings = Float[Array | np.ndarray, "vocab hidden"]
AnchorIds = Int[Array | np.ndarray, "anchors"]


def transfer_matrix(
    embeddings: Embeddings,
    anchor_ids: AnchorIds,
    *,
    normalization: Normalization = "centered",
    temperature: float | None = None,
    num_tokens: int | None = None,
) -> Float[Array, "vocab anchors"]:
    """R, dense: the definition that tests hold every table to (DeePEn, equations 2 to 4).

    Args:
      embeddings: `[V, D]` input embeddings.
      anchor_ids: `[A]` int32 rows of the anchors.
      normalization: `centered`, or `deepen` as published.
      temperature: of `centered` (default: calibrated on the host, so it is needed under `jit`), or
        of `deepen` (default: 100).
      num_tokens: rows from this one on are padding.

    Returns:
      `[V, A]` float32. Rows sum to one. Rows of padding and of zeros are zero, and so are the
      columns of such anchors.

    Raises:
      InputError: an anchor is not a row of the embeddings.
    """
    unit = unit_embeddings(embeddings, normalization=normalization, num_tokens=num_tokens)
    if not isinstance(anchor_ids, jax.core.Tracer):
        check_anchors(anchor_ids, unit.shape[0])
    anchors = unit[jnp.asarray(anchor_ids)]
    if temperature is None:
        temperature = default_temperature(unit, anchor_ids, normalization=normalization)
    return relative_rows(unit, anchors, normalization, temperature)


def unit_embeddings(
    embeddings: Embeddings,
    *,
    normalization: Normalization = "centered",
    num_tokens: int | None = None,
) -> Float[Array, "vocab hidden"]:
    """Embeddings as unit rows `[V, D]` float32; `centered` first subtracts the mean token.

    Rows of padding and of zeros become zeros, which marks rows without a token everywhere else.

    Args:
      embeddings: `[V, D]`.
      normalization: `centered` or `deepen`.
      num_tokens: rows from this one on are padding.
    """
    tokens = _tokens(embeddings, num_tokens)
    origin = _origin(embeddings, tokens, normalization)
    unit: jax.Array = unit_rows(embeddings, tokens, origin)
    return unit


def default_temperature(
    unit: Float[Array, "vocab hidden"],
    anchor_ids: AnchorIds,
    *,
    normalization: Normalization,
    seed: int = 0,
) -> float:
    """The temperature of a normalization: DeePEn's 100, or a calibrated one for `centered`.

    Args:
      unit: `[V, D]` from `unit_embeddings`.
      anchor_ids: `[A]` int32.
      normalization: `centered` or `deepen`.
      seed: see `calibrate_temperature`.
    """
    if normalization == "deepen":
        return DEEPEN_TEMPERATURE
    return calibrate_temperature(unit, anchor_ids, seed=seed)


def calibrate_temperature(
    unit: Float[Array, "vocab hidden"],
    anchor_ids: AnchorIds,
    *,
    seed: int = 0,
    self_mass: float = SELF_MASS,
    bounds: tuple[float, float] = TEMPERATURES,
    sample: int = SAMPLE,
) -> float:
    """The temperature of `centered` at which anchors keep .99 of their rows on themselves.

    It is found by bisection: the MEAN self-mass of a seeded sample of anchors is `self_mass`. A
    token's cosine with itself is its largest, so that mean grows with the temperature.

    Args:
      unit: `[V, D]` from `unit_embeddings`.
      anchor_ids: `[A]` int32.
      seed: of the sample.
      self_mass: the mean to reach.
      bounds: the lowest and highest temperature; the nearer one if none between reaches the mean.
      sample: the most anchors in the sample.
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


def anchor_coverage(
    token_counts: Real[np.ndarray, "vocab"], anchor_ids: Int[np.ndarray, "anchors"]
) -> float:
    """Share of a text's tokens that are anchors.

    Args:
      token_counts: `[V]`, how often each token occurs in the text.
      anchor_ids: `[A]` int32.
    """
    counts = np.asarray(token_counts, np.float64)
    return float(counts[np.asarray(anchor_ids)].sum() / max(counts.sum(), 1.0))


def exact_relative(
    probabilities: Float[Array, "batch vocab"],
    embeddings: Embeddings,
    anchor_ids: AnchorIds,
    *,
    normalization: Normalization,
    temperature: float,
    num_tokens: int | None = None,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> Float[Array, "batch anchors"]:
    """`p R` in float32 with every entry of R, one block of rows at a time.

    Tables are compared with it. It takes one pass over R for all distributions together.

    Args:
      probabilities: p, `[B, V]`.
      embeddings: `[V, D]`, as for `build_table`.
      anchor_ids: `[A]` int32.
      normalization: `centered` or `deepen`.
      temperature: that of the table's health.
      num_tokens: rows from this one on are padding.
      on_block: called with (blocks done, all blocks).

    Returns:
      `[B, A]` float32.

    Raises:
      InputError: an anchor is not a row of the embeddings.
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


def to_vocabulary(
    probabilities: Float[Array, "batch plugin_vocab"],
    target_ids: Int[Array | np.ndarray, "plugin_vocab"],
    size: int,
) -> Float[Array, "batch target_vocab"]:
    """`p M`: a plug-in's distribution moved to the target's vocabulary, token by token.

    Each plug-in token gives its mass to one target token: the same token where both vocabularies
    have it, else the first token of its text. Mass of tokens without one (id -1) is dropped, and
    the rest is scaled to one, unless it is below `LEAST_SHARED`.

    Args:
      probabilities: `[B, Vs]`.
      target_ids: `[Vs]` int32, -1 for none.
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


def check_anchors(anchor_ids: AnchorIds, total: int) -> None:
    """Check that every anchor is one of `total` rows.

    Raises:
      InputError: an anchor is not.
    """
    ids = np.asarray(anchor_ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < total):
        raise InputError(
            f"anchor ids run from {ids.min()} to {ids.max()}, but the embeddings have rows 0 to "
            f"{total - 1}: the tokenizer is of another model"
        )


def relative_rows(
    rows: Float[Array, "rows hidden"],
    anchors: Float[Array, "anchors hidden"],
    normalization: Normalization,
    temperature: float | Float[Array, ""],
) -> Float[Array, "rows anchors"]:
    """Rows of R, `[N, A]`, from unit rows; zeros for a row without a token."""
    logits = relative_logits(rows, anchors, normalization, temperature)[0]
    return jnp.where(is_token(rows)[:, None], jax.nn.softmax(logits, axis=1), 0.0)


def relative_logits(
    rows: Float[Array, "rows hidden"],
    anchors: Float[Array, "anchors hidden"],
    normalization: Normalization,
    temperature: float | Float[Array, ""],
    measure: Callable[[jax.Array, jax.Array], jax.Array] = cosine,
) -> tuple[Float[Array, "rows anchors"], Float[Array, "rows"]]:
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
    embeddings: Float[Array, "vocab hidden"],
    anchor_ids: Int[np.ndarray, "anchors"],
    normalization: Normalization,
    num_tokens: int | None,
) -> tuple[Bool[Array, "vocab"], Float[Array, "hidden"], Float[Array, "anchors hidden"]]:
    """What all rows of R share.

    Returns:
      Which rows are tokens `[V]`, the origin of directions `[D]`, and the anchors' directions
      `[A, D]`.
    """
    tokens = _tokens(embeddings, num_tokens)
    origin = _origin(embeddings, tokens, normalization)
    return tokens, origin, unit_rows(embeddings[anchor_ids], tokens[anchor_ids], origin)


@partial(jax.jit, static_argnames="num_tokens")
def _tokens(embeddings: jax.Array, num_tokens: int | None) -> jax.Array:
    """`[V]` bool: rows of tokens, which are neither padding nor zero."""
    tokens = jnp.any(embeddings != 0, axis=1)
    return tokens if num_tokens is None else tokens & (jnp.arange(len(tokens)) < num_tokens)


@partial(jax.jit, static_argnames="normalization")
def _origin(embeddings: jax.Array, tokens: jax.Array, normalization: Normalization) -> jax.Array:
    """`[D]` float32: the origin of directions, which is the mean token or zero."""
    if normalization == "deepen":
        return jnp.zeros(embeddings.shape[1], jnp.float32)
    rows = jnp.where(tokens[:, None], embeddings.astype(jnp.float32), 0.0)
    return jnp.sum(rows, axis=0) / jnp.sum(tokens)


@jax.jit
def unit_rows(
    rows: Float[Array, "rows hidden"],
    tokens: Bool[Array, "rows"],
    origin: Float[Array, "hidden"],
) -> Float[Array, "rows hidden"]:
    """Directions `[N, D]` float32 of embeddings from the origin; zeros for a row without a token.

    Args:
      rows: `[N, D]` embeddings.
      tokens: `[N]` bool, which of them are tokens.
      origin: `[D]`.
    """
    rows = rows.astype(jnp.float32) - origin
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.where(tokens[:, None], rows / jnp.maximum(length, _EPS), 0.0)
