"""Tables: the relative representation R of one model, in three forms that can be multiplied.

Fusion and search need three things of R `[V, A]`: `p R`, one column, and which rows are tokens.
Dense, it takes 48 GB for Gemma-3 and 45,568 anchors; 64 entries a row take 134 MB.
"""

import dataclasses
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp

BLOCK = 1024  # rows of R that are dense at a time
EXCLUDED = -1e30  # logit of what is no token or no anchor: softmax gives exactly 0, and no NaN


@runtime_checkable
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

    @property
    def num_anchors(self) -> int:
        """A."""
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

    @property
    def num_anchors(self) -> int:
        """See `Table`."""
        return self.matrix.shape[1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TopKTable:
    """The k largest entries of every row; what is left of a row is spread over the mean row.

    Rows still sum to one, so that `p R` stays a distribution.

    Attributes:
      indices: `[V, k]` int32 anchor indices, no two alike in a row.
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
        shares = probabilities.T

        # One of the k entries of all rows at a time: `[V, B]` is the largest array there is.
        def add(sums: jax.Array, entry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
            anchors, values = entry
            return sums.at[anchors].add(values[:, None] * shares), None

        dtype = jnp.result_type(probabilities, self.values)
        zeros = jnp.zeros((self.mean_row.shape[0], shares.shape[1]), dtype)
        kept, _ = jax.lax.scan(add, zeros, (self.indices.T, self.values.T))
        spread = jnp.matmul(probabilities, self.rest, precision="highest")
        return kept.T + spread[:, None] * self.mean_row

    def to_relative_of(self, tokens: jax.Array, shares: jax.Array) -> jax.Array:
        """`p R` of a p that is zero but on a few tokens: `[B, A]`, from their rows alone.

        Args:
          tokens: `[B, M]` int32, no two alike in a row.
          shares: `[B, M]`, p at these tokens.
        """
        height = tokens.shape[0]
        anchors = self.indices[tokens].reshape(height, -1)
        masses = (self.values[tokens] * shares[..., None]).reshape(height, -1)
        spread = jnp.sum(shares * self.rest[tokens], axis=1, keepdims=True) * self.mean_row
        # Row by row, which devices that share the rows can do each for its own.
        add = jax.vmap(lambda row, at, mass: row.at[at].add(mass))
        sums: jax.Array = add(spread, anchors, masses)  # type: ignore[no-untyped-call]
        return sums

    def column(self, anchor: jax.Array) -> jax.Array:
        """See `Table`."""
        own = jnp.sum(jnp.where(self.indices == anchor, self.values, 0.0), axis=1)
        return own + self.rest * self.mean_row[anchor]

    @property
    def valid(self) -> jax.Array:
        """See `Table`."""
        return jnp.sum(self.values, axis=1) + self.rest > 0

    @property
    def num_anchors(self) -> int:
        """See `Table`."""
        return self.mean_row.shape[0]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ExactTable:
    """R recomputed block by block wherever it is multiplied: exact, slow, and small in memory.

    A column costs O(V D), `p R` costs O(V A D).

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
        embeddings, scale, log_normalizer = (
            jax.lax.dynamic_slice_in_dim(array, start, size)
            for array in (self.embeddings, self.scale, self.log_normalizer)
        )
        logits = scaled_cosine(cosine(embeddings, self.anchors), scale, self.anchors)
        entries = jnp.exp(logits - log_normalizer[:, None])
        return jnp.where(is_token(embeddings)[:, None], entries, 0.0)

    def to_relative(self, probabilities: jax.Array) -> jax.Array:
        """See `Table`. Its gradient recomputes the blocks as well."""
        total, size = self.embeddings.shape[0], min(BLOCK, self.embeddings.shape[0])

        # The running sum stays outside of what is recomputed, or it would be kept for each block.
        @jax.checkpoint
        def part(probabilities: jax.Array, block: jax.Array) -> jax.Array:
            # The last block starts early enough to be whole; what it repeats is masked.
            start = jnp.minimum(block * size, total - size)
            fresh = start + jnp.arange(size) >= block * size
            share = jax.lax.dynamic_slice_in_dim(probabilities, start, size, axis=1)
            share = jnp.where(fresh, share, 0.0)
            return jnp.matmul(share, self.rows(start, size), precision="highest")

        def add(sums: jax.Array, block: jax.Array) -> tuple[jax.Array, None]:
            return sums + part(probabilities, block), None

        dtype = jnp.result_type(probabilities, self.embeddings)
        zeros = jnp.zeros((probabilities.shape[0], self.anchors.shape[0]), dtype)
        return jax.lax.scan(add, zeros, jnp.arange(-(-total // size)))[0]

    def column(self, anchor: jax.Array) -> jax.Array:
        """See `Table`."""
        own = self.anchors[anchor][None]
        logits = scaled_cosine(cosine(self.embeddings, own), self.scale, own)[:, 0]
        return jnp.where(self.valid, jnp.exp(logits - self.log_normalizer), 0.0)

    @property
    def valid(self) -> jax.Array:
        """See `Table`."""
        return is_token(self.embeddings)

    @property
    def num_anchors(self) -> int:
        """See `Table`."""
        return self.anchors.shape[0]


def lookup_table(table: DenseTable | TopKTable | ExactTable) -> jax.Array:
    """For every anchor the token that the one-hot search from zeros finds: argmax_v R[v, a].

    Returns:
      `[A]` int32; the lowest id where several are equal.
    """
    if isinstance(table, DenseTable):
        return jnp.argmax(table.matrix, axis=0).astype(jnp.int32)
    exact = isinstance(table, ExactTable)
    tokens: jax.Array = _streamed_argmax(table) if exact else _sparse_argmax(table)
    return tokens


def held_mass(table: TopKTable, probabilities: jax.Array) -> jax.Array:
    """How much of each `p R` the kept entries hold: `[B]` in [0, 1] for `p [B, V]`."""
    return jnp.matmul(probabilities, jnp.sum(table.values, axis=1), precision="highest")


def cosine(rows: jax.Array, anchors: jax.Array) -> jax.Array:
    """Inner products `[N, A]` of unit rows, in float32 whatever the accelerator's default is.

    The exponent multiplies their error by s_v: at the .0025 of bfloat16 operands and s_v = 50 an
    entry of R would be off by 13%.
    """
    return jnp.matmul(rows, anchors.T, precision="highest")


def quick_cosine(rows: jax.Array, anchors: jax.Array) -> jax.Array:
    """`cosine` of directions rounded to bfloat16, off by up to .0025, summed in float32."""
    operands = rows.astype(jnp.bfloat16), anchors.astype(jnp.bfloat16)
    return jnp.einsum("nd,ad->na", *operands, preferred_element_type=jnp.float32)


def row_sums(entries: jax.Array) -> jax.Array:
    """Sums `[N]` of the rows of `[N, A]`, as a product, which keeps what it sums in memory."""
    return jnp.matmul(entries, jnp.ones(entries.shape[1], entries.dtype), precision="highest")


def scaled_cosine(cosines: jax.Array, scale: jax.Array, anchors: jax.Array) -> jax.Array:
    """`s_v * C[v, a]`, `[N, A]`; an anchor whose embedding is no token's takes no mass."""
    return jnp.where(is_token(anchors), scale[:, None] * cosines, EXCLUDED)


def is_token(unit: jax.Array) -> jax.Array:
    """`[N]` bool: rows `[N, D]` that are not all zero."""
    return jnp.any(unit != 0, axis=1)


@jax.jit
def _sparse_argmax(table: TopKTable) -> jax.Array:
    anchors, (tokens, k) = table.mean_row.shape[0], table.values.shape
    # A column's largest entry is one that a row kept, or the mean row's share of the row with the
    # largest rest: no other row that did not keep it can exceed that one.
    background = table.rest[:, None] * table.mean_row[table.indices]
    entries = jnp.where(table.valid[:, None], table.values + background, -1.0).ravel()
    columns = table.indices.ravel()
    best = jax.ops.segment_max(entries, columns, num_segments=anchors)
    row = jnp.repeat(jnp.arange(tokens, dtype=jnp.int32), k)
    kept = jax.ops.segment_min(
        jnp.where(entries == best[columns], row, tokens), columns, num_segments=anchors
    )
    loosest = jnp.argmax(jnp.where(table.valid, table.rest, -1.0)).astype(jnp.int32)
    floor = table.rest[loosest] * table.mean_row
    tied = jnp.where(floor == best, jnp.minimum(kept, loosest), kept)
    return jnp.where(floor > best, loosest, tied)


@jax.jit
def _streamed_argmax(table: ExactTable) -> jax.Array:
    total, size = table.embeddings.shape[0], min(BLOCK, table.embeddings.shape[0])
    Best = tuple[jax.Array, jax.Array]

    def better(best: Best, block: jax.Array) -> tuple[Best, None]:
        start = jnp.minimum(block * size, total - size)
        rows = table.rows(start, size)
        value, token = jnp.max(rows, axis=0), start + jnp.argmax(rows, axis=0).astype(jnp.int32)
        wins = value > best[0]
        return (jnp.where(wins, value, best[0]), jnp.where(wins, token, best[1])), None

    anchors = table.anchors.shape[0]
    first = (jnp.full(anchors, -1.0, table.embeddings.dtype), jnp.zeros(anchors, jnp.int32))
    return jax.lax.scan(better, first, jnp.arange(-(-total // size)))[0][1]
