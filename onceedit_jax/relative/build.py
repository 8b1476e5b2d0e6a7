"""From embeddings to a transfer table and its health, one pass over blocks of rows.

The only part of R that ever exists is a block of its rows; each is reduced to what a table (see
`tables`) and a report are made of. A centred top-k table is found by products of bfloat16 operands,
summed in float32, and the entries that it keeps are then computed again in float32: which these
are, the mass outside of them and the mean row rest on rounded cosines. Every other table is float32
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
from numpy.typing import NDArray

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
    check_anchors,
    default_temperature,
    frame,
    relative_logits,
    relative_rows,
    unit_rows,
)

ROW_ENTRIES = 64  # that a row of a top-k table keeps


class RowStatistics(NamedTuple):
    """A block of rows, reduced to what a table and its health report are made of."""

    log_normalizer: jax.Array  # [N]
    scale: jax.Array  # [N]
    indices: jax.Array  # [N, k] int32
    values: jax.Array  # [N, k]
    self_mass: jax.Array  # [N], R[v, own anchor] (0 where v is no anchor)


@partial(jax.jit, static_argnames=("k", "normalization", "quick"))
def table_block(
    rows: jax.Array,
    own_anchor: jax.Array | NDArray[np.int32],
    anchors: jax.Array,
    temperature: float | jax.Array,
    *,
    k: int,
    normalization: Normalization,
    quick: bool = False,
) -> tuple[RowStatistics, jax.Array]:
    """Reduce one block of R, `[N, A]`, the only part of it that ever exists.

    Args:
      rows: `[N, D]` unit rows (zeros where there is no token).
      own_anchor: `[N]` int32, which anchor a row is; -1 where it is none.
      anchors: `[A, D]` unit rows.
      temperature: see `transfer_matrix`.
      k: entries kept a row.
      normalization: which of the two.
      quick: take the cosines of bfloat16 directions, and compute in float32 what is kept.

    Returns:
      A reduction of each row, and the sum `[A]` of the rows that are tokens.
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

    # By hand: the compiler does not split what sorts rows, but gathers them all.
    return jax.shard_map(
        share,
        in_specs=(layout, layout, whole, whole),
        out_specs=(layout, whole),
        check_vma=False,
    )(rows, jnp.asarray(own_anchor), anchors, jnp.asarray(temperature))


def _reduced(
    rows: jax.Array,
    own_anchor: jax.Array | NDArray[np.int32],
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
    # The maximum is taken anew: slicing it out of top_k's result makes XLA sort whole rows on CPU.
    kept, indices = jax.lax.top_k(logits, k)
    largest = jnp.max(logits, axis=1)
    weights = jnp.exp(logits - largest[:, None])
    # A product, since XLA on CPU does not vectorise an exponential that it fuses into a sum.
    mass = row_sums(weights)
    if quick:
        rough = jnp.sum(jnp.exp(kept - largest[:, None]), axis=1)
        known = scale[:, None] * _cosines_of(rows, anchors, indices)
        kept = jnp.where(kept > EXCLUDED, known, kept)
        mass = jnp.maximum(mass - rough, 0) + jnp.sum(jnp.exp(kept - largest[:, None]), axis=1)
    share = jnp.where(is_token(rows), 1 / mass, 0.0)  # a row of R is share * weights
    own = jnp.exp(scale * jnp.sum(rows * anchors[own_anchor], axis=1) - largest)
    statistics = RowStatistics(
        log_normalizer=largest + jnp.log(mass),
        scale=scale,
        indices=indices.astype(jnp.int32),
        values=jnp.exp(kept - largest[:, None]) * share[:, None],
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
    """Whether a relative representation still tells tokens apart.

    Attributes:
      normalization: which of the two.
      temperature: its temperature.
      anchors: number of anchors A.
      self_mass: mean entry of an anchor's row at itself.
      neighbour_mass: mean mass that tokens which are no anchor keep on their k nearest anchors;
        None where every token is an anchor.
      anchor_neighbour_mass: mean mass that an anchor's row keeps on its k nearest but itself.
      entropy: mean entropy of a seeded sample of rows, nats.
      coverage: share of tokens, weighted by how often they occur in text, that are anchors.
      held_mass: mass of p R that a top-k table's entries hold, p being real distributions.
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
                "the cosine), or use the rule vocabulary"
            )
        return tuple(found)


@dataclasses.dataclass(frozen=True)
class ModelTable:
    """One model's relative representation over a pair's anchors, and its health.

    Attributes:
      table: R.
      lookup: `[A]` int32 from `tables.lookup_table`.
      health: whether R tells tokens apart.
    """

    table: DenseTable | TopKTable | ExactTable
    lookup: jax.Array
    health: TransferHealth


def build_table(
    embeddings: jax.Array,
    anchor_ids: jax.Array,
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
      embeddings: `[V, D]` input embeddings, the UNEDITED ones where the model is edited.
      anchor_ids: `[A]` int32.
      normalization: `centered` or `deepen`.
      temperature: default as in `default_temperature`.
      num_tokens: rows from here on are padding.
      kind: `topk` (k entries a row), `dense` (all of R) or `exact` (recomputed when used).
      k: entries a row of `topk`; at most A.
      quick: find a centred top-k table by bfloat16 products; what it keeps is computed in float32.
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
            "representation; use the rule vocabulary"
        )
    check_anchors(ids, np.shape(embeddings)[0])
    embeddings = jnp.asarray(embeddings)
    # Rows are made unit rows block by block: a copy of all of them is held by no top-k table.
    tokens, origin, anchors = frame(embeddings, ids, normalization, num_tokens)
    own_anchor = np.full(len(embeddings), -1, np.int32)
    own_anchor[ids] = np.arange(len(ids))
    if temperature is None:
        every = np.arange(len(ids), dtype=np.int32)
        temperature = default_temperature(anchors, every, normalization=normalization)
    k, total = min(k, len(ids)), len(embeddings)
    # DeePEn's rows are nearly even, and their scale depends on every cosine: no rounding there.
    quick = quick and kind == "topk" and normalization == "centered"
    whole: RowStatistics | None = None
    row_sum = np.zeros(len(ids), np.float64)
    for start in range(0, total, BLOCK):
        rows = np.arange(start, start + min(BLOCK, total))  # one shape, one compilation
        real, rows = rows < total, np.minimum(rows, total - 1)
        unit = unit_rows(embeddings[rows], tokens[rows] & real, origin)
        own = np.where(real, own_anchor[rows], -1)
        with using(laid_over(embeddings)):  # its devices share the rows of a block
            block, sums = table_block(
                unit,
                own,
                anchors,
                temperature,
                k=k,
                normalization=normalization,
                quick=quick,
            )
        if whole is None:
            whole = jax.tree.map(lambda part: np.empty((total, *part.shape[1:]), part.dtype), block)
        for all_rows, part in zip(whole, block, strict=True):
            all_rows[rows[real]] = to_host(part)[real]
        row_sum += to_host(sums)
        on_block(start // BLOCK + 1, -(-total // BLOCK))
    assert whole is not None
    mask = to_host(tokens)
    sample = np.random.default_rng(0).permutation(np.flatnonzero(mask))[:SAMPLE]
    chosen = unit_rows(embeddings[sample], tokens[sample], origin)
    entropy = _mean_entropy(chosen, anchors, temperature, normalization)
    health = _health(whole, mask, own_anchor, normalization, temperature, float(entropy))
    if kind == "topk":
        values = jnp.asarray(whole.values)
        rest = jnp.where(mask, jnp.maximum(1.0 - values.sum(1), 0.0), 0.0)
        mean_row = jnp.asarray(row_sum / row_sum.sum(), jnp.float32)
        return TopKTable(jnp.asarray(whole.indices), values, rest, mean_row), health
    unit = unit_rows(embeddings, tokens, origin)
    exact = ExactTable(unit, anchors, jnp.asarray(whole.scale), jnp.asarray(whole.log_normalizer))
    if kind == "exact":
        return exact, health
    return DenseTable(exact.rows(0, len(unit))), health


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
    whole: RowStatistics,
    tokens: NDArray[np.bool_],
    own_anchor: NDArray[np.int32],
    normalization: Normalization,
    temperature: float,
    entropy: float,
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
        entropy=entropy,
        anchor_neighbour_mass=float(np.mean((kept - whole.self_mass)[shared])),
    )
