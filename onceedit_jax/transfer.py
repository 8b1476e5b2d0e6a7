"""Relative representations: each model's tokens in the space of shared anchors (DeePEn, section 3).

Both normalisations are one formula, `R[v, a] = exp(s_v * C[v, a] - log_normalizer_v)`, with
C the cosine of token v and anchor a in the model's own input embeddings:

- `deepen`: raw embeddings, `s_v = 100 / ||C_v||_2`, which is DeePEn's softmax at temperature 100
  over L2-normalised rows;
- `centered`: the mean embedding is subtracted first and `s_v` is one temperature for the model.

A table is R, or an approximation of it, that can be multiplied: `to_relative(p)` is `p R`.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.errors import InputError

Normalization = Literal["centered", "deepen"]
Kind = Literal["topk", "dense", "exact"]

BLOCK = 1024  # rows of R that are dense at a time
DEEPEN_TEMPERATURE = 100.0
TEMPERATURES = (1.0, 200.0)
SELF_MASS = 0.99
_EPS = 1e-12


class Table(Protocol):
    """What fusion and search need of a relative representation R `[V, A]`."""

    def to_relative(self, probabilities: jax.Array) -> jax.Array:
        """`p R`: distributions over tokens `[B, V]` to distributions over anchors `[B, A]`."""
        ...

    def column(self, anchor: jax.Array) -> jax.Array:
        """`R[:, anchor]`: `[V]` for one anchor index (int32 scalar)."""
        ...

    @property
    def valid(self) -> jax.Array:
        """`[V]` bool: rows that are real tokens; the others are all zero."""
        ...


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseTable:
    """R as it is, `matrix [V, A]`: 9 GB for SmolLM2 and Gemma-3's anchors, so for small pairs."""

    matrix: jax.Array

    def to_relative(self, probabilities: jax.Array) -> jax.Array:
        """See `Table`."""
        return jnp.matmul(probabilities, self.matrix, precision="highest")

    def column(self, anchor: jax.Array) -> jax.Array:
        """See `Table`."""
        return self.matrix[:, anchor]

    @property
    def valid(self) -> jax.Array:
        """See `Table`."""
        return jnp.sum(self.matrix, axis=1) > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopKTable:
    """The k largest entries of every row; what is left of a row is spread over the mean row.

    Rows still sum to one, so that `p R` stays a distribution.

    Attributes:
      indices: `[V, k]` int32 anchor indices.
      values: `[V, k]` float32 entries of R.
      rest: `[V]` float32, 1 - sum of a row's values (0 for rows that are no token).
      mean_row: `[A]` float32, the mean of R's rows.
    """

    indices: jax.Array
    values: jax.Array
    rest: jax.Array
    mean_row: jax.Array

    def to_relative(self, probabilities: jax.Array) -> jax.Array:
        """See `Table`."""
        weighted = probabilities[:, :, None] * self.values

        def scatter(row: jax.Array) -> jax.Array:
            zeros = jnp.zeros(self.mean_row.shape[0], row.dtype)
            return zeros.at[self.indices].add(row)

        spread = (probabilities @ self.rest)[:, None] * self.mean_row
        return jax.lax.map(scatter, weighted) + spread

    def column(self, anchor: jax.Array) -> jax.Array:
        """See `Table`."""
        own = jnp.sum(jnp.where(self.indices == anchor, self.values, 0.0), axis=1)
        return own + self.rest * self.mean_row[anchor]

    @property
    def valid(self) -> jax.Array:
        """See `Table`."""
        return jnp.sum(self.values, axis=1) + self.rest > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExactTable:
    """R recomputed block by block wherever it is multiplied: exact, slow, and small in memory.

    Attributes:
      embeddings: `[V, D]` float32 unit rows (zero where there is no token).
      anchors: `[A, D]` float32, the anchors' unit rows.
      scale: `[V]` float32, s_v.
      log_normalizer: `[V]` float32.
    """

    embeddings: jax.Array
    anchors: jax.Array
    scale: jax.Array
    log_normalizer: jax.Array

    def rows(self, start: int | jax.Array, size: int) -> jax.Array:
        """`R[start : start + size]`, dense `[size, A]`."""
        take = lambda array: jax.lax.dynamic_slice_in_dim(array, start, size)  # noqa: E731
        embeddings = take(self.embeddings)
        cosine = _cosine(embeddings, self.anchors)
        entries = jnp.exp(take(self.scale)[:, None] * cosine - take(self.log_normalizer)[:, None])
        return jnp.where(_is_token(embeddings)[:, None], entries, 0.0)

    def to_relative(self, probabilities: jax.Array) -> jax.Array:
        """See `Table`. Its gradient recomputes the blocks as well."""
        total, size = self.embeddings.shape[0], min(BLOCK, self.embeddings.shape[0])

        @jax.checkpoint
        def add(sums: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
            # The last block starts early enough to be whole; what it repeats is masked.
            start = jnp.minimum(block * size, total - size)
            fresh = start + jnp.arange(size) >= block * size
            share = jax.lax.dynamic_slice_in_dim(probabilities, start, size, axis=1)
            share = jnp.where(fresh, share, 0.0)
            return sums + jnp.matmul(share, self.rows(start, size), precision="highest"), None

        zeros = jnp.zeros((probabilities.shape[0], self.anchors.shape[0]), jnp.float32)
        return jax.lax.scan(add, zeros, jnp.arange(-(-total // size)))[0]

    def column(self, anchor: jax.Array) -> jax.Array:
        """See `Table`."""
        cosine = _cosine(self.embeddings, self.anchors[anchor][None])[:, 0]
        return jnp.where(self.valid, jnp.exp(self.scale * cosine - self.log_normalizer), 0.0)

    @property
    def valid(self) -> jax.Array:
        """See `Table`."""
        return _is_token(self.embeddings)


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
      `[V, A]` float32; rows sum to one, rows that are padding or zero are zero.
    """
    unit = unit_embeddings(embeddings, normalization=normalization, num_tokens=num_tokens)
    anchors = unit[jnp.asarray(anchor_ids)]
    if temperature is None:
        temperature = default_temperature(unit, anchor_ids, normalization=normalization)
    logits = _scaled_cosine(unit, anchors, normalization, temperature)[0]
    return jnp.where(_is_token(unit)[:, None], jax.nn.softmax(logits, axis=1), 0.0)


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
    """DeePEn's 100, or for `centered` the temperature at which anchors keep .99 of their mass.

    Bisected in [1, 200] so that the MEAN self-mass of 512 seeded anchors is .99; an end of the
    interval where none gives that.

    Args:
      unit: `[V, D]` from `unit_embeddings`.
      anchor_ids: `[A]` int32.
      normalization: which of the two.
      seed: of the sample.
    """
    if normalization == "deepen":
        return DEEPEN_TEMPERATURE
    ids = np.asarray(anchor_ids)
    sample = np.sort(np.random.default_rng(seed).permutation(len(ids))[:512])
    cosine = _cosine(unit[ids[sample]], unit[ids])
    own = jnp.asarray(sample)

    def self_mass(temperature: float) -> float:
        logits = temperature * cosine
        mass = jnp.exp(logits[jnp.arange(len(own)), own] - jax.nn.logsumexp(logits, axis=1))
        return float(jnp.mean(mass))

    low, high = TEMPERATURES
    for _ in range(24):
        middle = (low + high) / 2
        low, high = (middle, high) if self_mass(middle) < SELF_MASS else (low, middle)
    return high


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
    own_anchor: jax.Array,
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
    logits, scale = _scaled_cosine(rows, anchors, normalization, temperature)
    log_normalizer = jax.nn.logsumexp(logits, axis=1)
    is_token = _is_token(rows)[:, None]
    entries = jnp.where(is_token, jnp.exp(logits - log_normalizer[:, None]), 0.0)
    values, indices = jax.lax.top_k(entries, k)
    own = jnp.take_along_axis(entries, jnp.maximum(own_anchor, 0)[:, None], axis=1)[:, 0]
    statistics = RowStatistics(
        log_normalizer=log_normalizer,
        scale=scale,
        indices=indices.astype(jnp.int32),
        values=values,
        self_mass=jnp.where(own_anchor >= 0, own, 0.0),
        entropy=log_normalizer - jnp.sum(entries * logits, axis=1),
    )
    return statistics, jnp.sum(entries, axis=0)


@dataclasses.dataclass(frozen=True)
class TransferHealth:
    """Whether a relative representation still tells tokens apart.

    Attributes:
      normalization: which of the two.
      temperature: its temperature.
      anchors: number of anchors A.
      self_mass: mean entry of an anchor's row at itself.
      neighbour_mass: mean mass that tokens which are no anchor keep on their k nearest anchors.
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
                "neighbours (under .01) and fall through; lower the temperature, or fuse in the "
                "target's vocabulary"
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
      InputError: if there are fewer than two anchors.
    """
    ids = np.asarray(anchor_ids)
    if len(ids) < 2:
        raise InputError(
            f"{len(ids)} anchors: the two vocabularies share too little for a relative "
            "representation; use fusion=vocabulary"
        )
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
        block, sums = table_block(
            rows, own, anchors, temperature, k=k, normalization=normalization
        )
        parts.append(jax.tree.map(np.asarray, block))
        row_sum += np.asarray(sums, np.float64)
    whole = jax.tree.map(lambda *blocks: np.concatenate(blocks)[: unit.shape[0]], *parts)
    health = _health(whole, np.asarray(_is_token(unit)), own_anchor, normalization, temperature)
    tokens = jnp.asarray(_is_token(unit))
    if kind == "topk":
        values = jnp.asarray(whole.values)
        rest = jnp.where(tokens, jnp.maximum(1.0 - values.sum(1), 0.0), 0.0)
        mean_row = jnp.asarray(row_sum / row_sum.sum(), jnp.float32)
        return TopKTable(jnp.asarray(whole.indices), values, rest, mean_row), health
    exact = ExactTable(unit, anchors, jnp.asarray(whole.scale), jnp.asarray(whole.log_normalizer))
    if kind == "exact":
        return exact, health
    return DenseTable(exact.rows(0, unit.shape[0])), health


def lookup_table(table: DenseTable | TopKTable | ExactTable) -> jax.Array:
    """For every anchor the token that the one-hot search from zeros finds: argmax_v R[v, a].

    Returns:
      `[A]` int32; the lowest id where several are equal.
    """
    if isinstance(table, DenseTable):
        return jnp.argmax(table.matrix, axis=0).astype(jnp.int32)
    if isinstance(table, ExactTable):
        return _streamed_argmax(table)
    anchors, tokens = table.mean_row.shape[0], table.values.shape[0]
    # A column's largest entry is one that a row kept, or the mean row's share of the row with the
    # largest rest: no other row can exceed that one.
    background = table.rest[:, None] * table.mean_row[table.indices]
    entries, columns = (table.values + background).ravel(), table.indices.ravel()
    best = jax.ops.segment_max(entries, columns, num_segments=anchors)
    loosest = jnp.argmax(table.rest)
    floor = table.rest[loosest] * table.mean_row
    row = jnp.repeat(jnp.arange(tokens, dtype=jnp.int32), table.indices.shape[1])
    winner = jnp.where(entries == best[columns], row, tokens)
    kept = jax.ops.segment_min(winner, columns, num_segments=anchors)
    return jnp.where(floor > best, loosest, kept).astype(jnp.int32)


def held_mass(table: TopKTable, probabilities: jax.Array) -> jax.Array:
    """How much of each `p R` the kept entries hold: `[B]` in [0, 1] for `p [B, V]`."""
    return probabilities @ jnp.sum(table.values, axis=1)


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


def _cosine(rows: jax.Array, anchors: jax.Array) -> jax.Array:
    # An accelerator's default precision would cost the exponent `temperature` times its error.
    return jnp.matmul(rows, anchors.T, precision="highest")


def _scaled_cosine(
    rows: jax.Array,
    anchors: jax.Array,
    normalization: Normalization,
    temperature: float | jax.Array,
) -> tuple[jax.Array, jax.Array]:
    cosine = _cosine(rows, anchors)
    if normalization == "deepen":
        scale = temperature / jnp.maximum(jnp.linalg.norm(cosine, axis=1), _EPS)
    else:
        scale = jnp.full(rows.shape[0], temperature, jnp.float32)
    return scale[:, None] * cosine, scale


def _is_token(unit: jax.Array) -> jax.Array:
    return jnp.any(unit != 0, axis=1)


def _blocks(
    unit: jax.Array, own_anchor: np.ndarray, on_block: Callable[[int, int], None]
) -> Iterator[tuple[jax.Array, jax.Array]]:
    total = -(-unit.shape[0] // BLOCK)
    for block in range(total):
        rows = unit[block * BLOCK : (block + 1) * BLOCK]
        own = own_anchor[block * BLOCK : (block + 1) * BLOCK]
        missing = min(BLOCK, unit.shape[0]) - rows.shape[0]  # one shape, one compilation
        yield jnp.pad(rows, ((0, missing), (0, 0))), np.pad(own, (0, missing), constant_values=-1)
        on_block(block + 1, total)


def _health(
    whole: RowStatistics,
    tokens: np.ndarray,
    own_anchor: np.ndarray,
    normalization: str,
    temperature: float,
) -> TransferHealth:
    others = tokens & (own_anchor < 0)
    return TransferHealth(
        normalization=normalization,
        temperature=float(temperature),
        anchors=int(np.sum(own_anchor >= 0)),
        self_mass=float(np.mean(whole.self_mass[own_anchor >= 0])),
        neighbour_mass=float(whole.values[others].sum(1).mean()) if others.any() else None,
        entropy=float(np.mean(whole.entropy[tokens])),
    )


@jax.jit
def _streamed_argmax(table: ExactTable) -> jax.Array:
    total, size = table.embeddings.shape[0], min(BLOCK, table.embeddings.shape[0])

    def better(best: tuple[jax.Array, jax.Array], block: jax.Array) -> tuple[tuple, None]:
        start = jnp.minimum(block * size, total - size)
        rows = table.rows(start, size)
        value, token = jnp.max(rows, axis=0), start + jnp.argmax(rows, axis=0).astype(jnp.int32)
        wins = value > best[0]
        return (jnp.where(wins, value, best[0]), jnp.where(wins, token, best[1])), None

    anchors = table.anchors.shape[0]
    first = (jnp.full(anchors, -1.0), jnp.zeros(anchors, jnp.int32))
    return jax.lax.scan(better, first, jnp.arange(-(-total // size)))[0][1]
