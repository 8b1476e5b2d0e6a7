"""Relative representations: each model's tokens in the space of shared anchors (DeePEn, section 3).

Both normalisations are one formula, `R[v, a] = exp(s_v * C[v, a] - log_normalizer_v)`, with
C the cosine of token v and anchor a in the model's own input embeddings:

- `deepen`: raw embeddings, `s_v = 100 / ||C_v||_2`, which is DeePEn's softmax at temperature 100
  over L2-normalised rows;
- `centered`: the mean embedding is subtracted first and `s_v` is one temperature for the model.

One pass over blocks of rows reduces R to a table (see `tables`) and its health. The products are
float32: on the CPU that this was measured on, bfloat16 operands were no faster (.50 s against .42 s
a block of 1024 Gemma-3 rows), and sums of three bfloat16 products 3.5 times slower. One `top_k`
over all 45,568 anchors beats a two-stage one over groups (.10 s against .21 s a block).
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.errors import InputError
from onceedit_jax.tables import (
    BLOCK,
    DenseTable,
    ExactTable,
    Table,
    TopKTable,
    cosine,
    held_mass,
    is_token,
    lookup_table,
    scaled_cosine,
)

__all__ = [
    "DenseTable",
    "ExactTable",
    "Kind",
    "Normalization",
    "Table",
    "TopKTable",
    "TransferHealth",
    "anchor_coverage",
    "build_table",
    "calibrate_temperature",
    "default_temperature",
    "held_mass",
    "lookup_table",
    "table_block",
    "to_vocabulary",
    "transfer_matrix",
    "unit_embeddings",
]

Normalization = Literal["centered", "deepen"]
Kind = Literal["topk", "dense", "exact"]

DEEPEN_TEMPERATURE = 100.0
TEMPERATURES = (1.0, 200.0)
SELF_MASS = 0.99
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
      temperature: of `centered` (default: calibrated) or `deepen` (default: 100).
      num_tokens: rows from here on are padding.

    Returns:
      `[V, A]` float32; rows sum to one, rows that are padding or zero are zero, and so are the
      columns of anchors that are.

    Raises:
      InputError: if an anchor is no row of the embeddings.
    """
    unit = unit_embeddings(embeddings, normalization=normalization, num_tokens=num_tokens)
    if not isinstance(anchor_ids, jax.core.Tracer):
        _check_anchors(anchor_ids, unit.shape[0])
    anchors = unit[jnp.asarray(anchor_ids)]
    if temperature is None:
        temperature = default_temperature(unit, anchor_ids, normalization=normalization)
    logits = _logits(unit, anchors, normalization, temperature)[0]
    return jnp.where(is_token(unit)[:, None], jax.nn.softmax(logits, axis=1), 0.0)


def unit_embeddings(
    embeddings: jax.Array,
    *,
    normalization: Normalization = "centered",
    num_tokens: int | None = None,
) -> jax.Array:
    """Embeddings as unit rows `[V, D]` float32, the mean of real tokens taken off if centred.

    Rows that are padding or zero come out as zeros, which marks them as no token from here on.
    """
    rows = jnp.asarray(embeddings, jnp.float32)
    tokens = jnp.any(rows != 0, axis=1)
    if num_tokens is not None:
        tokens &= jnp.arange(rows.shape[0]) < num_tokens
    keep = tokens[:, None]
    if normalization == "centered":
        rows = rows - jnp.sum(jnp.where(keep, rows, 0.0), axis=0) / jnp.sum(tokens)
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.where(keep, rows / jnp.maximum(length, _EPS), 0.0)


def default_temperature(
    unit: jax.Array, anchor_ids: jax.Array, *, normalization: Normalization, seed: int = 0
) -> float:
    """DeePEn's 100, or for `centered` the temperature at which anchors keep .99 of their mass."""
    if normalization == "deepen":
        return DEEPEN_TEMPERATURE
    return calibrate_temperature(unit, anchor_ids, seed=seed)


def calibrate_temperature(
    unit: jax.Array,
    anchor_ids: jax.Array,
    *,
    seed: int = 0,
    self_mass: float = SELF_MASS,
    bounds: tuple[float, float] = TEMPERATURES,
    sample: int = 512,
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
    usable = np.flatnonzero(np.asarray(is_token(anchors)))
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


class RowStatistics(NamedTuple):
    """A block of rows, reduced to what a table and its health report are made of."""

    log_normalizer: jax.Array  # [N]
    scale: jax.Array  # [N]
    indices: jax.Array  # [N, k] int32
    values: jax.Array  # [N, k]
    self_mass: jax.Array  # [N], R[v, own anchor] (0 where v is no anchor)
    entropy: jax.Array  # [N], nats


@partial(jax.jit, static_argnames=("k", "normalization"))
def table_block(
    rows: jax.Array,
    own_anchor: jax.Array | NDArray[np.int32],
    anchors: jax.Array,
    temperature: float | jax.Array,
    *,
    k: int,
    normalization: Normalization,
) -> tuple[RowStatistics, jax.Array]:
    """Reduce one block of R, `[N, A]`, the only part of it that ever exists.

    Args:
      rows: `[N, D]` unit rows (zeros where there is no token).
      own_anchor: `[N]` int32, which anchor a row is; -1 where it is none.
      anchors: `[A, D]` unit rows.
      temperature: see `transfer_matrix`.
      k: entries kept a row.
      normalization: which of the two.

    Returns:
      A reduction of each row, and the sum `[A]` of the rows that are tokens.
    """
    logits, scale = _logits(rows, anchors, normalization, temperature)
    # The maximum is taken anew: slicing it out of top_k's result makes XLA sort whole rows on CPU.
    kept, indices = jax.lax.top_k(logits, k)
    largest = jnp.max(logits, axis=1)
    weights = jnp.exp(logits - largest[:, None])
    mass = jnp.sum(weights, axis=1)
    log_normalizer = largest + jnp.log(mass)
    share = jnp.where(is_token(rows), 1 / mass, 0.0)  # a row of R is share * weights
    own = jnp.take_along_axis(weights, jnp.maximum(own_anchor, 0)[:, None], axis=1)[:, 0]
    statistics = RowStatistics(
        log_normalizer=log_normalizer,
        scale=scale,
        indices=indices.astype(jnp.int32),
        values=jnp.exp(kept - largest[:, None]) * share[:, None],
        self_mass=jnp.where(own_anchor >= 0, own * share, 0.0),
        entropy=log_normalizer - jnp.sum(weights * logits, axis=1) / mass,
    )
    return statistics, jnp.matmul(share, weights, precision="highest")


@dataclasses.dataclass(frozen=True)
class TransferHealth:
    """Whether a relative representation still tells tokens apart.

    Attributes:
      normalization: which of the two.
      temperature: its temperature.
      anchors: number of anchors A.
      self_mass: mean entry of an anchor's row at itself.
      neighbour_mass: mean mass that tokens which are no anchor keep on their k nearest anchors;
        None where every token is an anchor.
      anchor_neighbour_mass: mean mass that an anchor's row keeps on its k nearest but itself.
      entropy: mean entropy of the rows, nats.
      coverage: share of tokens, weighted by how often they occur in text, that are anchors.
      held_mass: mass of p R that a top-k table's entries hold, p being real distributions.
    """

    normalization: str
    temperature: float
    anchors: int
    self_mass: float
    neighbour_mass: float | None
    entropy: float
    coverage: float | None = None
    held_mass: float | None = None
    anchor_neighbour_mass: float | None = None

    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the table, each with a remedy; empty when nothing is."""
        found = []
        if self.self_mass < 0.05:
            found.append(
                f"degenerate: an anchor keeps {self.self_mass:.3f} of its mass (under .05), so "
                "that every distribution looks the same; use normalization=centered"
            )
        if self.neighbour_mass is not None and self.neighbour_mass < 0.01:
            found.append(
                f"tokens that are no anchor keep {self.neighbour_mass:.3f} of their mass on their "
                "neighbours (under .01) and fall through; raise the temperature (it multiplies "
                "the cosine), or use fusion=vocabulary"
            )
        return tuple(found)


def build_table(
    embeddings: jax.Array,
    anchor_ids: jax.Array,
    *,
    normalization: Normalization = "centered",
    temperature: float | None = None,
    num_tokens: int | None = None,
    kind: Kind = "topk",
    k: int = 64,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[DenseTable | TopKTable | ExactTable, TransferHealth]:
    """Build one model's table in one pass over blocks of rows.

    Args:
      embeddings: `[V, D]` input embeddings, the UNEDITED ones where the model is edited.
      anchor_ids: `[A]` int32.
      normalization: `centered` or `deepen`.
      temperature: default as in `default_temperature`.
      num_tokens: rows from here on are padding.
      kind: `topk` (k entries a row), `dense` (all of R) or `exact` (recomputed when used).
      k: entries a row of `topk`; at most A.
      on_block: told (blocks done, blocks in all).

    Returns:
      The table, and its health (coverage left out: it needs token counts).

    Raises:
      InputError: if there are fewer than two anchors, or one is no row of the embeddings.
    """
    ids = np.asarray(anchor_ids)
    if len(ids) < 2:
        raise InputError(
            f"{len(ids)} anchors: the two vocabularies share too little for a relative "
            "representation; use fusion=vocabulary"
        )
    _check_anchors(ids, np.shape(embeddings)[0])
    unit = unit_embeddings(embeddings, normalization=normalization, num_tokens=num_tokens)
    anchors = unit[ids]
    if temperature is None:
        temperature = default_temperature(unit, anchor_ids, normalization=normalization)
    own_anchor = np.full(unit.shape[0], -1, np.int32)
    own_anchor[ids] = np.arange(len(ids))
    k = min(k, len(ids))
    parts: list[RowStatistics] = []
    row_sum = np.zeros(len(ids), np.float64)
    for rows, own in _blocks(unit, own_anchor, on_block):
        block, sums = table_block(rows, own, anchors, temperature, k=k, normalization=normalization)
        parts.append(jax.tree.map(np.asarray, block))
        row_sum += np.asarray(sums, np.float64)
    whole = jax.tree.map(lambda *blocks: np.concatenate(blocks)[: unit.shape[0]], *parts)
    tokens = np.asarray(is_token(unit))
    health = _health(whole, tokens, own_anchor, normalization, temperature)
    if kind == "topk":
        values = jnp.asarray(whole.values)
        rest = jnp.where(tokens, jnp.maximum(1.0 - values.sum(1), 0.0), 0.0)
        mean_row = jnp.asarray(row_sum / row_sum.sum(), jnp.float32)
        return TopKTable(jnp.asarray(whole.indices), values, rest, mean_row), health
    exact = ExactTable(unit, anchors, jnp.asarray(whole.scale), jnp.asarray(whole.log_normalizer))
    if kind == "exact":
        return exact, health
    return DenseTable(exact.rows(0, unit.shape[0])), health


def to_vocabulary(probabilities: jax.Array, target_ids: jax.Array, size: int) -> jax.Array:
    """`p M`: a plug-in's distribution moved to the target's vocabulary, token by token.

    Each plug-in token gives its mass to one target token (itself where both share it, else the
    first token of its text). Mass of tokens that have none (id -1) is dropped, and what is left
    is scaled back to one.

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
    return moved / jnp.maximum(jnp.sum(moved, axis=1, keepdims=True), _EPS)


def _check_anchors(anchor_ids: Any, total: int) -> None:
    ids = np.asarray(anchor_ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < total):
        raise InputError(
            f"anchor ids run from {ids.min()} to {ids.max()}, but the embeddings have rows 0 to "
            f"{total - 1}: the tokenizer is of another model"
        )


def _logits(
    rows: jax.Array,
    anchors: jax.Array,
    normalization: Normalization,
    temperature: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    cosines = cosine(rows, anchors)
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


def _blocks(
    unit: jax.Array, own_anchor: NDArray[np.int32], on_block: Callable[[int, int], None]
) -> Iterator[tuple[jax.Array, NDArray[np.int32]]]:
    total = -(-unit.shape[0] // BLOCK)
    for block in range(total):
        rows = unit[block * BLOCK : (block + 1) * BLOCK]
        own = own_anchor[block * BLOCK : (block + 1) * BLOCK]
        missing = min(BLOCK, unit.shape[0]) - rows.shape[0]  # one shape, one compilation
        yield jnp.pad(rows, ((0, missing), (0, 0))), np.pad(own, (0, missing), constant_values=-1)
        on_block(block + 1, total)


def _health(
    whole: RowStatistics,
    tokens: NDArray[np.bool_],
    own_anchor: NDArray[np.int32],
    normalization: str,
    temperature: float,
) -> TransferHealth:
    others = tokens & (own_anchor < 0)
    kept = whole.values.sum(1)
    shared = own_anchor >= 0
    # An anchor's own entry is the largest of its row, so that it is among the k.
    return TransferHealth(
        normalization=normalization,
        temperature=float(temperature),
        anchors=int(np.sum(shared)),
        self_mass=float(np.mean(whole.self_mass[shared])),
        neighbour_mass=float(kept[others].mean()) if others.any() else None,
        entropy=float(np.mean(whole.entropy[tokens])),
        anchor_neighbour_mass=float(np.mean((kept - whole.self_mass)[shared])),
    )
