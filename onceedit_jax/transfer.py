"""Relative representations: each model's tokens in the space of shared anchors (DeePEn, section 3).

Both normalisations are one formula, `R[v, a] = exp(s_v * C[v, a] - log_normalizer_v)`, with
C the cosine of token v and anchor a in the model's own input embeddings:

- `deepen`: raw embeddings, `s_v = 100 / ||C_v||_2`, which is DeePEn's softmax at temperature 100
  over L2-normalised rows;
- `centered`: the mean embedding is subtracted first and `s_v` is one temperature for the model.

One pass over blocks of rows reduces R to a table (see `tables`) and its health. A centred top-k
table is found by products of bfloat16 operands, summed in float32, and the entries that it keeps
are then computed again in float32: which these are, the mass outside of them and the mean row rest
on rounded cosines. Every other table is float32 throughout.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike
from numpy.typing import NDArray

from onceedit_jax.errors import InputError
from onceedit_jax.parallel import laid_over, spec, to_host, using
from onceedit_jax.tables import (
    BLOCK,
    EXCLUDED,
    DenseTable,
    ExactTable,
    Table,
    TopKTable,
    cosine,
    held_mass,
    is_token,
    lookup_table,
    quick_cosine,
    row_sums,
    scaled_cosine,
)

__all__ = [
    "LEAST_SHARED",
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
    "exact_relative",
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
    return _matrix_rows(unit, anchors, normalization, temperature)


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
    return _unit_rows(embeddings, tokens, _origin(embeddings, tokens, normalization))


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
    layout = PartitionSpec() if mesh.empty else spec(mesh, ("entry",), rows.shape[:1])
    reduce = partial(_reduced, k=k, normalization=normalization, quick=quick)
    if not any(layout):
        return reduce(rows, own_anchor, anchors, temperature)

    def share(*block: jax.Array) -> tuple[RowStatistics, jax.Array]:
        statistics, sums = reduce(*block)
        return statistics, jax.lax.psum(sums, layout[0])

    # By hand: the compiler does not split what sorts rows, but gathers them all.
    return jax.shard_map(
        share,
        in_specs=(layout, layout, PartitionSpec(), PartitionSpec()),
        out_specs=(layout, PartitionSpec()),
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
    logits, scale = _logits(rows, anchors, normalization, temperature, measure)
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
    return jax.lax.map(of_row, (rows, indices), batch_size=32)


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
            "representation; use fusion=vocabulary"
        )
    _check_anchors(ids, np.shape(embeddings)[0])
    embeddings = jnp.asarray(embeddings)
    # Rows are made unit rows block by block: a copy of all of them is held by no top-k table.
    tokens, origin, anchors = _frame(embeddings, ids, normalization, num_tokens)
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
        unit = _unit_rows(embeddings[rows], tokens[rows] & real, origin)
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
    chosen = _unit_rows(embeddings[sample], tokens[sample], origin)
    entropy = _mean_entropy(chosen, anchors, temperature, normalization)
    health = _health(whole, mask, own_anchor, normalization, temperature, float(entropy))
    if kind == "topk":
        values = jnp.asarray(whole.values)
        rest = jnp.where(mask, jnp.maximum(1.0 - values.sum(1), 0.0), 0.0)
        mean_row = jnp.asarray(row_sum / row_sum.sum(), jnp.float32)
        return TopKTable(jnp.asarray(whole.indices), values, rest, mean_row), health
    unit = _unit_rows(embeddings, tokens, origin)
    exact = ExactTable(unit, anchors, jnp.asarray(whole.scale), jnp.asarray(whole.log_normalizer))
    if kind == "exact":
        return exact, health
    return DenseTable(exact.rows(0, len(unit))), health


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
    """
    embeddings, ids = jnp.asarray(embeddings), np.asarray(anchor_ids)
    tokens, origin, anchors = _frame(embeddings, ids, normalization, num_tokens)
    total, size = len(embeddings), min(BLOCK, len(embeddings))
    sums = jnp.zeros((len(probabilities), len(ids)), jnp.float32)
    for start in range(0, total, size):
        first = min(start, total - size)  # the last block starts early enough to be whole
        rows = slice(first, first + size)
        fresh = np.arange(first, first + size) >= start
        unit = _unit_rows(embeddings[rows], tokens[rows] & fresh, origin)
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
    rows = _matrix_rows(unit, anchors, normalization, temperature)
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


def _check_anchors(anchor_ids: Any, total: int) -> None:
    ids = np.asarray(anchor_ids)
    if ids.size and not (ids.min() >= 0 and ids.max() < total):
        raise InputError(
            f"anchor ids run from {ids.min()} to {ids.max()}, but the embeddings have rows 0 to "
            f"{total - 1}: the tokenizer is of another model"
        )


def _matrix_rows(
    rows: jax.Array,
    anchors: jax.Array,
    normalization: Normalization,
    temperature: float | jax.Array,
) -> jax.Array:
    """Rows of R, `[N, A]`; zeros where there is no token."""
    logits = _logits(rows, anchors, normalization, temperature)[0]
    return jnp.where(is_token(rows)[:, None], jax.nn.softmax(logits, axis=1), 0.0)


def _logits(
    rows: jax.Array,
    anchors: jax.Array,
    normalization: Normalization,
    temperature: float | jax.Array,
    measure: Callable[[jax.Array, jax.Array], jax.Array] = cosine,
) -> tuple[jax.Array, jax.Array]:
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


def _frame(
    embeddings: jax.Array,
    anchor_ids: NDArray[np.int32],
    normalization: Normalization,
    num_tokens: int | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which rows are tokens `[V]`, the origin of directions `[D]`, the anchors' own `[A, D]`."""
    tokens = _tokens(embeddings, num_tokens)
    origin = _origin(embeddings, tokens, normalization)
    return tokens, origin, _unit_rows(embeddings[anchor_ids], tokens[anchor_ids], origin)


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
def _unit_rows(rows: jax.Array, tokens: jax.Array, origin: jax.Array) -> jax.Array:
    """Directions `[N, D]` float32 of embeddings from the origin; zeros where there is no token."""
    rows = rows.astype(jnp.float32) - origin
    length = jnp.linalg.norm(rows, axis=1, keepdims=True)
    return jnp.where(tokens[:, None], rows / jnp.maximum(length, _EPS), 0.0)


@partial(jax.jit, static_argnames="normalization")
def _mean_entropy(
    rows: jax.Array,
    anchors: jax.Array,
    temperature: float | jax.Array,
    normalization: Normalization,
) -> jax.Array:
    entries = _matrix_rows(rows, anchors, normalization, temperature)
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
