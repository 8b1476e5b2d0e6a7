"""Tables: the relative representation R of one model, in three forms that can be multiplied.

Fusion and search need three things of R `[V, A]`: `p R`, one column, and which rows are tokens.
For Gemma-3 and 45,568 anchors a dense R takes 48 GB, and 64 entries of each row take 134 MB.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

BLOCK = 1024  # rows of R that are dense at a time
EXCLUDED = -1e30  # logit of a row without a token or anchor: softmax gives exactly 0, and no NaN


@runtime_checkable
class Table(Protocol):
    """What fusion and search need of a relative representation R `[V, A]`."""

    def to_relative(
        self, probabilities: Float[Array | np.ndarray, "batch vocab"]
    ) -> Float[Array, "batch anchors"]:
        """`p R`: distributions over tokens `[B, V]` to distributions over anchors `[B, A]`."""
        ...

    def column(self, anchor: Int[Array, ""]) -> Float[Array, "vocab"]:
        """`R[:, anchor]`: `[V]` for one anchor index (int32 scalar)."""
        ...

    @property
    def valid(self) -> Bool[Array, "vocab"]:
        """`[V]` bool: rows of tokens; all other rows are zero."""
        ...

    @property
    def num_anchors(self) -> int:
        """A."""
        ...


class DenseTable(NamedTuple):
    """The whole matrix. It takes 9 GB for SmolLM2 with Gemma-3's anchors, so it is for small pairs.

    Attributes:
      matrix: R, `[V, A]`.
    """

    matrix: Float[Array, "vocab anchors"]

    def to_relative(
        self, probabilities: Float[Array | np.ndarray, "batch vocab"]
    ) -> Float[Array, "batch anchors"]:
        """See `Table`."""
        return jnp.matmul(probabilities, self.matrix, precision="highest")

    def column(self, anchor: Int[Array, ""]) -> Float[Array, "vocab"]:
        """See `Table`."""
        return self.matrix[:, anchor]

    @property
    def valid(self) -> Bool[Array, "vocab"]:
        """See `Table`."""
        return jnp.sum(self.matrix, axis=1) > 0

    @property
    def num_anchors(self) -> int:
        """See `Table`."""
        return self.matrix.shape[1]


class TopKTable(NamedTuple):
    """The k largest entries of every row; the rest of a row's mass is spread as in the mean row.

    Rows still sum to one, so that `p R` stays a distribution.

    Attributes:
      indices: `[V, k]` int32 anchor indices, all different in a row.
      values: `[V, k]` float32 entries of R.
      rest: `[V]` float32, 1 - sum of a row's values (0 for a row without a token).
      mean_row: `[A]` float32, the mean of R's rows.
    """

    indices: Int[Array, "vocab k"]
    values: Float[Array, "vocab k"]
    rest: Float[Array, "vocab"]
    mean_row: Float[Array, "anchors"]

    def to_relative(
        self, probabilities: Float[Array | np.ndarray, "batch vocab"]
    ) -> Float[Array, "batch anchors"]:
        """See `Table`."""
        dtype = jnp.result_type(probabilities, self.values)
        zeros = jnp.zeros((self.mean_row.shape[0], probabilities.shape[0]), dtype)
        arguments = zeros, self.indices.T, self.values.T, jnp.asarray(probabilities).T
        # A GPU waits for the host between two turns of a loop, longer than a turn takes.
        sums = jax.lax.platform_dependent(*arguments, cuda=add_at_once, default=add_by_entry)
        rest = jnp.matmul(probabilities, self.rest, precision="highest")
        relative: jax.Array = sums.T + rest[:, None] * self.mean_row
        return relative

    def to_relative_of(
        self,
        tokens: Int[Array | np.ndarray, "batch chosen"],
        shares: Float[Array | np.ndarray, "batch chosen"],
    ) -> Float[Array, "batch anchors"]:
        """`p R` for a p that is zero except at a few tokens: `[B, A]`, from their rows alone.

        Args:
          tokens: `[B, M]` int32, all different in a row.
          shares: `[B, M]`, p at these tokens.
        """
        height = tokens.shape[0]
        anchors = self.indices[tokens].reshape(height, -1)
        masses = (self.values[tokens] * shares[..., None]).reshape(height, -1)
        spread = jnp.sum(shares * self.rest[tokens], axis=1, keepdims=True) * self.mean_row

        def scatter(row: jax.Array, at: jax.Array, mass: jax.Array) -> jax.Array:
            return row.at[at].add(mass)

        # Row by row, so that devices which share the rows scatter each their own.
        add = jax.vmap(scatter)
        sums: jax.Array = add(spread, anchors, masses)
        return sums

    def column(self, anchor: Int[Array, ""]) -> Float[Array, "vocab"]:
        """See `Table`."""
        own = jnp.sum(jnp.where(self.indices == anchor, self.values, 0.0), axis=1)
        return own + self.rest * self.mean_row[anchor]

    @property
    def valid(self) -> Bool[Array, "vocab"]:
        """See `Table`."""
        return jnp.sum(self.values, axis=1) + self.rest > 0

    @property
    def num_anchors(self) -> int:
        """See `Table`."""
        return self.mean_row.shape[0]


class ExactTable(NamedTuple):
    """R computed block by block at each use: exact and slow, and small in memory.

    A column costs O(V D), `p R` costs O(V A D).

    Attributes:
      embeddings: `[V, D]` float32 unit rows (zero where there is no token).
      anchors: `[A, D]` float32, the anchors' unit rows.
      scale: `[V]` float32, s_v.
      log_normalizer: `[V]` float32.
    """

    embeddings: Float[Array, "vocab hidden"]
    anchors: Float[Array, "anchors hidden"]
    scale: Float[Array, "vocab"]
    log_normalizer: Float[Array, "vocab"]

    def rows(self, start: int | Int[Array, ""], size: int) -> Float[Array, "rows anchors"]:
        """`R[start : start + size]`, dense `[size, A]`."""
        embeddings, scale, log_normalizer = (
            jax.lax.dynamic_slice_in_dim(array, start, size)
            for array in (self.embeddings, self.scale, self.log_normalizer)
        )
        logits = scaled_cosine(cosine(embeddings, self.anchors), scale, self.anchors)
        entries = jnp.exp(logits - log_normalizer[:, None])
        return jnp.where(is_token(embeddings)[:, None], entries, 0.0)

    def to_relative(
        self, probabilities: Float[Array | np.ndarray, "batch vocab"]
    ) -> Float[Array, "batch anchors"]:
        """See `Table`. The gradient computes the blocks again."""
        total, size = self.embeddings.shape[0], min(BLOCK, self.embeddings.shape[0])

        # The running sum is not in this function: it would be stored for each block.
        @jax.checkpoint
        def part(probabilities: jax.Array, block: jax.Array) -> jax.Array:
            # The last block starts early enough to be whole; rows that it repeats are masked.
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

    def column(self, anchor: Int[Array, ""]) -> Float[Array, "vocab"]:
        """See `Table`."""
        own = self.anchors[anchor][None]
        logits = scaled_cosine(cosine(self.embeddings, own), self.scale, own)[:, 0]
        return jnp.where(self.valid, jnp.exp(logits - self.log_normalizer), 0.0)

    @property
    def valid(self) -> Bool[Array, "vocab"]:
        """See `Table`."""
        return is_token(self.embeddings)

    @property
    def num_anchors(self) -> int:
        """See `Table`."""
        return self.anchors.shape[0]


def add_by_entry(
    sums: Float[Array, "anchors batch"],
    anchors: Int[Array, "k vocab"],
    values: Float[Array, "k vocab"],
    shares: Float[Array, "vocab batch"],
) -> Float[Array, "anchors batch"]:
    """`sums[anchors[i, v]] += values[i, v] shares[v]`; `[V, B]` is the largest array."""

    def add(sums: jax.Array, entry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        at, value = entry
        return sums.at[at].add(value[:, None] * shares), None

    return jax.lax.scan(add, sums, (anchors, values))[0]


def add_at_once(
    sums: Float[Array, "anchors batch"],
    anchors: Int[Array, "k vocab"],
    values: Float[Array, "k vocab"],
    shares: Float[Array, "vocab batch"],
) -> Float[Array, "anchors batch"]:
    """`add_by_entry` in one scatter; what it adds has the size `[k, V, B]` unless it is fused."""
    return sums.at[anchors].add(values[..., None] * shares)


def lookup_table(table: DenseTable | TopKTable | ExactTable) -> Int[Array, "anchors"]:
    """For every anchor the token that the one-hot search from zeros gives: argmax_v R[v, a].

    Returns:
      `[A]` int32; the lowest id where several are equal.
    """
    if isinstance(table, DenseTable):
        return jnp.argmax(table.matrix, axis=0).astype(jnp.int32)
    exact = isinstance(table, ExactTable)
    tokens: jax.Array = _streamed_argmax(table) if exact else _sparse_argmax(table)
    return tokens


def held_mass(
    table: TopKTable, probabilities: Float[Array, "batch vocab"]
) -> Float[Array, "batch"]:
    """How much of each `p R` the table's entries hold: `[B]` in [0, 1] for `p [B, V]`."""
    return jnp.matmul(probabilities, jnp.sum(table.values, axis=1), precision="highest")


def cosine(
    rows: Float[Array, "rows hidden"], anchors: Float[Array, "anchors hidden"]
) -> Float[Array, "rows anchors"]:
    """Inner products `[N, A]` of unit rows, in float32 whatever the accelerator's default is.

    The exponent multiplies their error by s_v: with the .0025 of bfloat16 operands and s_v = 50 the
    error of an entry of R would be 13%.
    """
    return jnp.matmul(rows, anchors.T, precision="highest")


def quick_cosine(
    rows: Float[Array, "rows hidden"], anchors: Float[Array, "anchors hidden"]
) -> Float[Array, "rows anchors"]:
    """`cosine` of directions rounded to bfloat16, summed in float32: the error is up to .0025."""
    operands = rows.astype(jnp.bfloat16), anchors.astype(jnp.bfloat16)
    return jnp.einsum("nd,ad->na", *operands, preferred_element_type=jnp.float32)


def row_sums(entries: Float[Array, "rows anchors"]) -> Float[Array, "rows"]:
    """Sums `[N]` of the rows of `[N, A]`, as a product, so that XLA stores the entries."""
    return jnp.matmul(entries, jnp.ones(entries.shape[1], entries.dtype), precision="highest")


def scaled_cosine(
    cosines: Float[Array, "rows anchors"],
    scale: Float[Array, "rows"],
    anchors: Float[Array, "anchors hidden"],
) -> Float[Array, "rows anchors"]:
    """`s_v * C[v, a]`, `[N, A]`; an anchor whose embedding is zero gets no mass."""
    return jnp.where(is_token(anchors), scale[:, None] * cosines, EXCLUDED)


def is_token(unit: Float[Array, "rows hidden"]) -> Bool[Array, "rows"]:
    """`[N]` bool: rows of `[N, D]` that are not all zero."""
    return jnp.any(unit != 0, axis=1)


@jax.jit
def _sparse_argmax(table: TopKTable) -> jax.Array:
    anchors, (tokens, k) = table.mean_row.shape[0], table.values.shape
    # A column's largest entry is among the entries of the table, or it is the mean row's share in
    # the row with the largest rest: no other row without an entry there can exceed that one.
    background = table.rest[:, None] * table.mean_row[table.indices]
    entries = jnp.where(table.valid[:, None], table.values + background, -1.0).ravel()
    columns = table.indices.ravel()
    best = jax.ops.segment_max(entries, columns, num_segments=anchors)
    row = jnp.repeat(jnp.arange(tokens, dtype=jnp.int32), k)
    lowest = jax.ops.segment_min(
        jnp.where(entries == best[columns], row, tokens), columns, num_segments=anchors
    )
    flattest = jnp.argmax(jnp.where(table.valid, table.rest, -1.0)).astype(jnp.int32)
    floor = table.rest[flattest] * table.mean_row
    tied = jnp.where(floor == best, jnp.minimum(lowest, flattest), lowest)
    return jnp.where(floor > best, flattest, tied)


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
