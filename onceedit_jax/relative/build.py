"""From embeddings to a transfer table and its health, in one pass over blocks of rows.

Only a block of rows of R exists at a time; it is reduced to the parts of a table (see `tables`) and
of a report. For a centred top-k table, cosines are products of bfloat16 operands, summed in
float32, and the k entries of each row are then computed again in float32. So rounded cosines decide
which entries these are, the mass of all others, and the mean row. All other tables are float32
throughout. Devices that the embeddings lie over share the rows of a block.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.distributed.mesh import laid_over, spec, to_host, using
from onceedit_jax.errors import InputError
from onceedit_jax.relative.options import Kind, Normalization
from onceedit_jax.relative.tables import (
    BLOCK,
    EXCLUDED,
    DenseTable,
    ExactTable,
    TopKTable,
    cosine,
    is_token,
    quick_cosine,
    row_sums,
)
from onceedit_jax.relative.transfer import (
    SAMPLE,
    AnchorIds,
    Embeddings,
    check_anchors,
    default_temperature,
    frame,
    relative_logits,
    relative_rows,
    unit_rows,
)

ROW_ENTRIES = 64  # entries of a row in a top-k table


class RowStatistics(NamedTuple):
    """N rows of R, reduced to the parts of a table and of its health report.

    Attributes:
      log_normalizer: `[N]` float32.
      scale: `[N]` float32, s_v.
      indices: `[N, k]` int32, anchors of the k largest entries.
      values: `[N, k]` float32, these entries.
      self_mass: `[N]` float32, R[v, v's own anchor]; 0 for a row that is not an anchor.
    """

    log_normalizer: Float[Array | np.ndarray, "rows"]
    scale: Float[Array | np.ndarray, "rows"]
    indices: Int[Array | np.ndarray, "rows k"]
    values: Float[Array | np.ndarray, "rows k"]
    self_mass: Float[Array | np.ndarray, "rows"]


@partial(jax.jit, static_argnames=("k", "normalization", "quick"))
def table_block(
    rows: Float[Array, "rows hidden"],
    own_anchor: Int[Array, "rows"],
    anchors: Float[Array, "anchors hidden"],
    temperature: float | Float[Array, ""],
    *,
    k: int,
    normalization: Normalization,
    quick: bool = False,
) -> tuple[RowStatistics, Float[Array, "anchors"]]:
    """Reduce a block of R, `[N, A]`.

    Args:
      rows: `[N, D]` unit rows (zeros for a row without a token).
      own_anchor: `[N]` int32, the anchor that a row is; -1 for a row that is not an anchor.
      anchors: `[A, D]` unit rows.
      temperature: see `transfer_matrix`.
      k: entries of each row.
      normalization: `centered` or `deepen`.
      quick: use cosines of bfloat16 directions, and compute the k entries again in float32.

    Returns:
      The reduction of each row, and the sum `[A]` of the rows of tokens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    whole = PartitionSpec()
    layout = whole if mesh.empty else spec(mesh, ("entry",), rows.shape[:1])
    reduce = partial(_reduced, k=k, normalization=normalization, quick=quick)
    if not any(layout):
        return reduce(rows, own_anchor, anchors, temperature)

    def share(*block: jax.Array) -> tuple[RowStatistics, jax.Array]:
        statistics, sums = reduce(*block)
        return statistics, jax.lax.psum(sums, layout[0])

    # By hand, because the compiler does not split a sort over devices: it gathers all rows.
    return jax.shard_map(
        share,
        in_specs=(layout, layout, whole, whole),
        out_specs=(layout, whole),
        check_vma=False,
    )(rows, jnp.asarray(own_anchor), anchors, jnp.asarray(temperature))


def _reduced(
    rows: jax.Array,
    own_anchor: jax.Array,
    anchors: jax.Array,
    temperature: float | jax.Array,
    *,
    k: int,
    normalization: Normalization,
    quick: bool,
) -> tuple[RowStatistics, jax.Array]:
    """`table_block` of one device's rows."""
    measure = quick_cosine if quick else cosine
    logits, scale = relative_logits(rows, anchors, normalization, temperature, measure)
    # A separate maximum: slicing it out of top_k's result makes XLA sort whole rows on CPU.
    top, indices = jax.lax.top_k(logits, k)
    largest = jnp.max(logits, axis=1)
    weights = jnp.exp(logits - largest[:, None])
    # A product, since XLA on CPU does not vectorise an exponential that it fuses into a sum.
    mass = row_sums(weights)
    if quick:
        rounded = jnp.sum(jnp.exp(top - largest[:, None]), axis=1)
        exact = scale[:, None] * _cosines_of(rows, anchors, indices)
        top = jnp.where(top > EXCLUDED, exact, top)
        mass = jnp.maximum(mass - rounded, 0) + jnp.sum(jnp.exp(top - largest[:, None]), axis=1)
    share = jnp.where(is_token(rows), 1 / mass, 0.0)  # a row of R is share * weights
    own = jnp.exp(scale * jnp.sum(rows * anchors[own_anchor], axis=1) - largest)
    statistics = RowStatistics(
        log_normalizer=largest + jnp.log(mass),
        scale=scale,
        indices=indices.astype(jnp.int32),
        values=jnp.exp(top - largest[:, None]) * share[:, None],
        self_mass=jnp.where(jnp.asarray(own_anchor) >= 0, own * share, 0.0),
    )
    return statistics, jnp.matmul(share, weights, precision="highest")


def _cosines_of(rows: jax.Array, anchors: jax.Array, indices: jax.Array) -> jax.Array:
    """`[N, k]` float32 inner products of rows `[N, D]` with k anchors each, `indices [N, k]`."""

    def of_row(row: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.matmul(anchors[row[1]], row[0], precision="highest")

    # A few rows at a time: all their anchors together would be [N, k, D].
    cosines: jax.Array = jax.lax.map(of_row, (rows, indices), batch_size=32)
    return cosines


@dataclasses.dataclass(frozen=True)
class TransferHealth:
    """Whether tokens stay distinct in a relative representation.

    Attributes:
      normalization: `centered` or `deepen`.
      temperature: its temperature.
      anchors: A, the number of anchors.
      self_mass: mean mass of an anchor's row on itself.
      neighbour_mass: mean mass of the other tokens' rows on their k nearest anchors; None if every
        token is an anchor.
      entropy: mean entropy of a seeded sample of rows, in nats.
      coverage: share of the tokens of text that are anchors.
      held_mass: mass of p R that the entries of a top-k table hold, for real distributions p.
      anchor_neighbour_mass: mean mass of an anchor's row on its k nearest anchors except itself.
    """

    normalization: Normalization
    temperature: float
    anchors: int
    self_mass: float
    neighbour_mass: float | None
    entropy: float
    coverage: float | None = None
    held_mass: float | None = None
    anchor_neighbour_mass: float | None = None

    def warnings(self) -> tuple[str, ...]:
        """Problems of the table, each with a remedy; empty if there are none."""
        warnings = []
        if self.self_mass < 0.05:
            warnings.append(
                f"degenerate: an anchor keeps {self.self_mass:.3f} of its mass (under .05), so "
                "all distributions look alike; use normalization=centered"
            )
        if self.neighbour_mass is not None and self.neighbour_mass < 0.01:
            warnings.append(
                f"tokens that are not anchors keep {self.neighbour_mass:.3f} of their mass on "
                "their neighbours (under .01), so their mass is lost; raise the temperature (it "
                "multiplies the cosine), or use the rule vocabulary"
            )
        return tuple(warnings)


@dataclasses.dataclass(frozen=True)
class ModelTable:
    """One model's relative representation over a pair's anchors, and its health.

    Attributes:
      table: R.
      lookup: `[A]` int32 from `tables.lookup_table`.
      health: whether tokens stay distinct in R.
    """

    table: DenseTable | TopKTable | ExactTable
    lookup: Int[Array, "anchors"]
    health: TransferHealth


def build_table(
    embeddings: Embeddings,
    anchor_ids: AnchorIds,
    *,
    normalization: Normalization = "centered",
    temperature: float | None = None,
    num_tokens: int | None = None,
    kind: Kind = "topk",
    k: int = ROW_ENTRIES,
    quick: bool = True,
    on_block: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[DenseTable | TopKTable | ExactTable, TransferHealth]:
    """Build one model's table in one pass over blocks of rows.

    Args:
      embeddings: `[V, D]` input embeddings, the UNEDITED ones of an edited model.
      anchor_ids: `[A]` int32.
      normalization: `centered` or `deepen`.
      temperature: default as in `default_temperature`.
      num_tokens: rows from this one on are padding.
      kind: `topk` (k entries a row), `dense` (all of R) or `exact` (computed when used).
      k: entries of a row of `topk`; at most A.
      quick: build a centred top-k table from bfloat16 products; its entries are float32.
      on_block: called with (blocks done, all blocks).

    Returns:
      The table, and its health without coverage and held mass, which need text.

    Raises:
      InputError: fewer than two anchors, or one that is not a row of the embeddings.
    """
    ids = np.asarray(anchor_ids)
    if len(ids) < 2:
        raise InputError(
            f"{len(ids)} anchors: the two vocabularies share too little for a relative "
            "representation; use the rule vocabulary"
        )
    check_anchors(ids, np.shape(embeddings)[0])
    rows = _Rows.of(jnp.asarray(embeddings), ids, normalization, num_tokens)
    if temperature is None:
        every = np.arange(len(ids), dtype=np.int32)
        temperature = default_temperature(rows.anchors, every, normalization=normalization)
    # DeePEn's rows are nearly even, and their scale depends on every cosine: no rounding there.
    quick = quick and kind == "topk" and normalization == "centered"
    reduce = partial(table_block, k=min(k, len(ids)), normalization=normalization, quick=quick)
    statistics, mean_row = _statistics(rows, temperature, reduce, on_block)
    health = _health(rows, statistics, normalization, temperature)
    if kind == "topk":
        return _topk_table(statistics, mean_row, to_host(rows.tokens)), health
    exact = ExactTable(
        unit_rows(rows.embeddings, rows.tokens, rows.origin),
        rows.anchors,
        jnp.asarray(statistics.scale),
        jnp.asarray(statistics.log_normalizer),
    )
    if kind == "exact":
        return exact, health
    return DenseTable(exact.rows(0, len(exact.embeddings))), health


class _Rows(NamedTuple):
    """Embeddings `[V, D]`, and what is needed to make unit rows of some of them.

    Unit rows are made block by block, so that a top-k table needs no copy of all embeddings.
    """

    embeddings: jax.Array
    tokens: jax.Array
    origin: jax.Array
    anchors: jax.Array
    own_anchor: Int[np.ndarray, "vocab"]

    @classmethod
    def of(
        cls,
        embeddings: jax.Array,
        ids: Int[np.ndarray, "anchors"],
        normalization: Normalization,
        num_tokens: int | None,
    ) -> "_Rows":
        own_anchor = np.full(len(embeddings), -1, np.int32)
        own_anchor[ids] = np.arange(len(ids))
        return cls(embeddings, *frame(embeddings, ids, normalization, num_tokens), own_anchor)

    def unit(
        self, places: Int[np.ndarray, "rows"], real: Bool[np.ndarray, "rows"] | None = None
    ) -> jax.Array:
        """Some unit rows `[N, D]`; zeros where `real` is False (default: all are real)."""
        tokens = self.tokens[places] if real is None else self.tokens[places] & real
        unit: jax.Array = unit_rows(self.embeddings[places], tokens, self.origin)
        return unit


def _statistics(
    rows: _Rows,
    temperature: float,
    reduce: Callable[..., tuple[RowStatistics, jax.Array]],
    on_block: Callable[[int, int], None],
) -> tuple[RowStatistics, Float[np.ndarray, "anchors"]]:
    """Statistics of all rows, on the host, and the mean `[A]` of the rows of tokens."""
    total = len(rows.embeddings)
    whole: RowStatistics | None = None
    row_sum = np.zeros(len(rows.anchors), np.float64)
    for start in range(0, total, BLOCK):
        places = np.arange(start, start + min(BLOCK, total))  # one shape, one compilation
        real, places = places < total, np.minimum(places, total - 1)
        unit = rows.unit(places, real)
        own = np.where(real, rows.own_anchor[places], -1)
        with using(laid_over(rows.embeddings)):  # its devices share the rows of a block
            block, sums = reduce(unit, own, rows.anchors, temperature)
        if whole is None:
            whole = jax.tree.map(lambda part: np.empty((total, *part.shape[1:]), part.dtype), block)
        for all_rows, part in zip(whole, block, strict=True):
            all_rows[places[real]] = to_host(part)[real]
        row_sum += to_host(sums)
        on_block(start // BLOCK + 1, -(-total // BLOCK))
    assert whole is not None
    return whole, row_sum / row_sum.sum()


def _topk_table(
    statistics: RowStatistics,
    mean_row: Float[np.ndarray, "anchors"],
    tokens: Bool[np.ndarray, "vocab"],
) -> TopKTable:
    values = jnp.asarray(statistics.values)
    rest = jnp.where(tokens, jnp.maximum(1.0 - values.sum(1), 0.0), 0.0)
    indices = jnp.asarray(statistics.indices)
    return TopKTable(indices, values, rest, jnp.asarray(mean_row, jnp.float32))


@partial(jax.jit, static_argnames="normalization")
def _mean_entropy(
    rows: jax.Array,
    anchors: jax.Array,
    temperature: float | jax.Array,
    normalization: Normalization,
) -> jax.Array:
    entries = relative_rows(rows, anchors, normalization, temperature)
    return jnp.mean(jnp.sum(jax.scipy.special.entr(entries), axis=1))


def _health(
    rows: _Rows, statistics: RowStatistics, normalization: Normalization, temperature: float
) -> TransferHealth:
    tokens = to_host(rows.tokens)
    sample = np.random.default_rng(0).permutation(np.flatnonzero(tokens))[:SAMPLE]
    entropy = _mean_entropy(rows.unit(sample), rows.anchors, temperature, normalization)
    is_anchor = rows.own_anchor >= 0
    others = tokens & ~is_anchor
    top_mass = statistics.values.sum(1)
    # An anchor's own entry is the largest of its row, so it is one of the k.
    return TransferHealth(
        normalization=normalization,
        temperature=float(temperature),
        anchors=int(np.sum(is_anchor)),
        self_mass=float(np.mean(statistics.self_mass[is_anchor])),
        neighbour_mass=float(top_mass[others].mean()) if others.any() else None,
        entropy=float(entropy),
        anchor_neighbour_mass=float(np.mean((top_mass - statistics.self_mass)[is_anchor])),
    )
