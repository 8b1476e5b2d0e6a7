"""Relative representations and their tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.errors import InputError
from onceedit_jax.relative import build, tables, transfer
from onceedit_jax.relative.build import build_table
from onceedit_jax.relative.tables import DenseTable, TopKTable, held_mass, lookup_table
from onceedit_jax.relative.transfer import (
    anchor_coverage,
    calibrate_temperature,
    exact_relative,
    to_vocabulary,
    transfer_matrix,
    unit_embeddings,
)

V, D, NUM_TOKENS, ZERO_ROW = 70, 16, 64, 7
KINDS = ("dense", "topk", "exact")
NORMALIZATIONS = ("centered", "deepen")


def embeddings(seed=0, rows=V, width=D, shift=0.5):
    """Random rows around a common mean, with a row of zeros and padding rows that are not zero."""
    values = np.random.default_rng(seed).normal(shift, 1.0, (rows, width)).astype(np.float32)
    values[ZERO_ROW] = 0
    return values


E = embeddings()
IDS = np.setdiff1d(np.random.default_rng(1).permutation(NUM_TOKENS)[:24], [ZERO_ROW]).astype(
    np.int32
)
A = len(IDS)
TOKENS = (np.arange(V) < NUM_TOKENS) & (np.arange(V) != ZERO_ROW)


def reference(normalization, temperature, matrix=E, ids=IDS, tokens=TOKENS):
    """R in float64 NumPy, directly from the two definitions."""
    rows = matrix.astype(np.float64)
    if normalization == "centered":
        rows = rows - rows[tokens].mean(0)
    out = np.zeros((len(rows), len(ids)))
    for v in np.flatnonzero(tokens):
        cosine = np.array(
            [rows[v] @ rows[a] / (np.linalg.norm(rows[v]) * np.linalg.norm(rows[a])) for a in ids]
        )
        if normalization == "deepen":
            cosine = cosine / np.linalg.norm(cosine)
        weights = np.exp(temperature * (cosine - cosine.max()))
        out[v] = weights / weights.sum()
    return out


def table(kind, normalization="centered", k=A, **options):
    options = {"temperature": 9.0, "num_tokens": NUM_TOKENS, "quick": False} | options
    return build_table(E, IDS, normalization=normalization, kind=kind, k=k, **options)[0]


def whole(any_table, rows=V):
    """The matrix of a table."""
    return np.asarray(any_table.to_relative(jnp.eye(rows)))


def distributions(seed, count=3, size=V):
    return jax.nn.softmax(2 * jax.random.normal(jax.random.key(seed), (count, size)))


@pytest.mark.parametrize(("normalization", "temperature"), [("centered", 9.0), ("deepen", 100.0)])
def test_the_matrix_is_the_formula_in_float64(normalization, temperature):
    matrix = transfer_matrix(
        E, IDS, normalization=normalization, temperature=temperature, num_tokens=NUM_TOKENS
    )
    np.testing.assert_allclose(matrix, reference(normalization, temperature), atol=2e-5)


def test_deepen_has_temperature_100_by_default():
    published = transfer_matrix(E, IDS, normalization="deepen", num_tokens=NUM_TOKENS)
    np.testing.assert_allclose(published, reference("deepen", 100.0), atol=2e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [16, 1024])
def test_every_table_with_all_entries_is_the_matrix(kind, normalization, block, monkeypatch):
    monkeypatch.setattr(build, "BLOCK", block)
    monkeypatch.setattr(tables, "BLOCK", block)
    made = table(kind, normalization)
    expected = reference(normalization, 9.0)
    np.testing.assert_allclose(whole(made), expected, atol=5e-6)
    for anchor in (0, A - 1):
        np.testing.assert_allclose(made.column(jnp.int32(anchor)), expected[:, anchor], atol=5e-6)
    assert np.array_equal(made.valid, TOKENS)
    assert made.num_anchors == A


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_tokens_sum_to_one_and_others_to_zero(kind):
    sums = whole(table(kind, k=3)).sum(1)
    np.testing.assert_allclose(sums, TOKENS.astype(float), atol=1e-5)


def test_top_k_keeps_the_largest_and_spreads_the_rest_over_the_mean_row():
    exact, k = reference("centered", 9.0), 5
    made = table("topk", k=k)
    mean = exact[TOKENS].mean(0)
    expected = np.zeros_like(exact)
    for v in np.flatnonzero(TOKENS):
        top = np.argsort(-exact[v])[:k]
        expected[v, top] = exact[v, top]
        expected[v] += (1 - exact[v, top].sum()) * mean
    np.testing.assert_allclose(whole(made), expected, atol=5e-6)
    np.testing.assert_allclose(made.column(jnp.int32(4)), expected[:, 4], atol=5e-6)


def test_entries_of_a_quick_table_are_float32_up_to_a_factor_for_each_row():
    """Rounded cosines change the mass of all other entries, and so the whole row by one factor."""
    slow, fast = table("topk", k=5), table("topk", k=5, quick=True)
    exact = reference("centered", 9.0)
    for v in np.flatnonzero(TOKENS):
        ratio = fast.values[v] / exact[v, np.asarray(fast.indices[v])]
        np.testing.assert_allclose(ratio, float(ratio[0]), rtol=2e-6)
    np.testing.assert_allclose(fast.values.sum(1), slow.values.sum(1), atol=3e-3)
    np.testing.assert_allclose(whole(fast).sum(1), TOKENS.astype(float), atol=1e-5)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("block", [16, 1024])
def test_exact_products_are_computed_block_by_block(normalization, block, monkeypatch):
    monkeypatch.setattr(transfer, "BLOCK", block)
    p = distributions(4)
    relative = exact_relative(
        p, E, IDS, normalization=normalization, temperature=9.0, num_tokens=NUM_TOKENS
    )
    np.testing.assert_allclose(relative, p @ reference(normalization, 9.0), atol=5e-6)


def test_held_mass_is_the_mass_of_p_r_on_a_tables_entries():
    made, p = table("topk", k=4), distributions(0)
    exact = reference("centered", 9.0)
    expected = np.asarray(p) @ np.sort(exact, axis=1)[:, -4:].sum(1)
    np.testing.assert_allclose(held_mass(made, p), expected, atol=1e-5)
    everything = held_mass(table("topk", k=A), p)
    np.testing.assert_allclose(everything, np.asarray(p)[:, TOKENS].sum(1), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_p_r_is_linear_in_p_and_its_gradient_is_a_row_product(kind):
    made, p = table(kind, k=4), distributions(1)
    weights = jax.random.normal(jax.random.key(2), (3, A))
    gradient = jax.grad(lambda p: jnp.sum(weights * made.to_relative(p)))(p)
    np.testing.assert_allclose(gradient, np.asarray(weights) @ whole(made).T, atol=2e-5)


@pytest.mark.parametrize("add", [tables.add_by_entry, tables.add_at_once])
def test_a_cpu_and_a_gpu_add_the_same_in_different_order(add):
    made, shares = table("topk", k=4), distributions(1).T
    entries = np.zeros((V, A), np.float64)
    rows = np.repeat(np.arange(V)[:, None], 4, axis=1)
    np.add.at(entries, (rows, np.asarray(made.indices)), np.asarray(made.values))
    sums = add(jnp.ones((A, 3)), made.indices.T, made.values.T, shares)
    np.testing.assert_allclose(sums, 1 + entries.T @ np.asarray(shares, np.float64), rtol=1e-5)


def test_the_exact_table_stores_no_block_of_r_for_its_gradient(monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 16)
    made, p = table("exact"), distributions(1, count=2)
    _, backward = jax.vjp(lambda p: made.to_relative(p), p)
    largest = max(leaf.size for leaf in jax.tree.leaves(backward) if hasattr(leaf, "size"))
    assert largest <= V * D  # the embeddings themselves; R would be V * A
    assert V * A > V * D


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_padding_rows_do_not_change_the_matrix(normalization):
    other = E.copy()
    other[NUM_TOKENS:] = 1e3
    options = {"normalization": normalization, "temperature": 9.0, "num_tokens": NUM_TOKENS}
    np.testing.assert_array_equal(
        transfer_matrix(other, IDS, **options), transfer_matrix(E, IDS, **options)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_anchor_with_a_zero_embedding_gets_no_mass(kind):
    ids = np.sort(np.append(IDS, ZERO_ROW)).astype(np.int32)
    made, _ = build_table(E, ids, temperature=9.0, num_tokens=NUM_TOKENS, kind=kind, k=A + 1)
    empty = int(np.flatnonzero(ids == ZERO_ROW)[0])
    assert np.asarray(made.column(jnp.int32(empty))).max() == 0
    np.testing.assert_allclose(
        np.delete(whole(made), empty, axis=1), reference("centered", 9.0), atol=5e-6
    )
    assert TOKENS[np.asarray(lookup_table(made))[ids != ZERO_ROW]].all()


def test_the_calibrated_temperature_gives_anchors_a_mean_self_mass_of_99_hundredths():
    unit = unit_embeddings(E, num_tokens=NUM_TOKENS)
    temperature = calibrate_temperature(unit, IDS)
    own = reference("centered", temperature)[IDS, np.arange(A)]
    assert own.mean() == pytest.approx(0.99, abs=1e-4)
    _, health = build_table(E, IDS, num_tokens=NUM_TOKENS)
    assert health.temperature == temperature
    assert health.self_mass == pytest.approx(0.99, abs=1e-4)


def test_calibration_is_seeded_and_stays_within_its_bounds():
    unit = unit_embeddings(E, num_tokens=NUM_TOKENS)
    assert calibrate_temperature(unit, IDS, sample=6, seed=3) == calibrate_temperature(
        unit, IDS, sample=6, seed=3
    )
    twins = jnp.tile(unit[IDS[:1]], (4, 1))  # equal anchors share their mass at any temperature
    assert calibrate_temperature(twins, np.arange(4)) == pytest.approx(200.0, abs=0.01)
    assert calibrate_temperature(unit, IDS, self_mass=0.0) == pytest.approx(1.0, abs=0.01)


@given(seed=st.integers(0, 10_000), k=st.sampled_from([1, 4, A]), tied=st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_lookup_of_a_top_k_table_is_the_argmax_of_its_columns(seed, k, tied):
    rng = np.random.default_rng(seed)
    indices = np.stack([rng.permutation(A)[:k] for _ in range(V)]).astype(np.int32)
    # With multiples of 1/4 ties in a column are common.
    values = rng.integers(0, 4, (V, k)) / 4 if tied else rng.random((V, k))
    rest = rng.integers(0, 4, V) / 4 if tied else rng.random(V)
    made = TopKTable(
        jnp.asarray(indices),
        jnp.asarray(values * TOKENS[:, None], jnp.float32),
        jnp.asarray(rest * TOKENS, jnp.float32),
        jnp.full(A, 0.25, jnp.float32),
    )
    columns = np.asarray(jax.vmap(made.column, out_axes=1)(jnp.arange(A)))
    tokens = np.asarray(lookup_table(made))
    np.testing.assert_allclose(columns[tokens, np.arange(A)], columns.max(0), rtol=1e-6)
    if tied:  # exact in binary: the lowest id wins
        reachable = columns.max(0) > 0
        np.testing.assert_array_equal(tokens[reachable], columns.argmax(0)[reachable])


@pytest.mark.parametrize("kind", KINDS)
def test_the_lookup_is_the_largest_entry_of_every_column(kind, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 16)
    made = table(kind, k=6)
    matrix, tokens = whole(made), np.asarray(lookup_table(made))
    np.testing.assert_allclose(matrix[tokens, np.arange(A)], matrix.max(0), rtol=1e-5)


def test_of_equal_entries_the_lookup_has_the_lowest_token():
    matrix = jnp.asarray([[0.5, 0.5], [0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_array_equal(lookup_table(DenseTable(matrix)), [0, 0])


def test_a_degenerate_matrix_warns_and_centring_repairs_it():
    # Anisotropic, as with tied embeddings: the common direction is much larger than differences.
    tied = np.random.default_rng(0).normal(3.0, 1.0, (900, 32)).astype(np.float32)
    ids = np.arange(800, dtype=np.int32)
    _, flat = build_table(tied, ids, normalization="deepen")
    assert flat.self_mass < 0.05
    assert any("degenerate" in line and "centered" in line for line in flat.warnings())
    _, repaired = build_table(tied, ids)
    assert repaired.self_mass > 0.98
    assert not repaired.warnings()
    assert repaired.entropy < flat.entropy


def test_a_matrix_that_loses_the_mass_of_other_tokens_warns():
    isotropic = np.random.default_rng(0).normal(size=(1600, 256)).astype(np.float32)
    ids = np.arange(1500, dtype=np.int32)
    _, health = build_table(isotropic, ids, k=1)
    assert health.self_mass > 0.98
    assert health.neighbour_mass < 0.01
    assert any("mass is lost" in line for line in health.warnings())
    _, sharper = build_table(isotropic, ids, k=1, temperature=3 * health.temperature)
    assert sharper.neighbour_mass > 10 * health.neighbour_mass  # the remedy of the warning
    assert not sharper.warnings()


def test_health_is_the_mean_over_anchors_and_over_other_tokens():
    exact = reference("centered", 9.0)
    _, health = build_table(E, IDS, temperature=9.0, num_tokens=NUM_TOKENS, k=4)
    own = exact[IDS, np.arange(A)]
    top_mass = np.sort(exact, axis=1)[:, -4:].sum(1)
    others = np.setdiff1d(np.flatnonzero(TOKENS), IDS)
    assert health.self_mass == pytest.approx(own.mean(), rel=1e-4)
    assert health.neighbour_mass == pytest.approx(top_mass[others].mean(), rel=1e-4)
    anchor_mass = (top_mass[IDS] - own).mean()
    assert health.anchor_neighbour_mass == pytest.approx(anchor_mass, rel=1e-3)
    entropy = -np.sum(exact * np.log(np.where(exact > 0, exact, 1)), axis=1)
    assert health.entropy == pytest.approx(entropy[TOKENS].mean(), rel=1e-4)
    assert health.anchors == A


def test_if_every_token_is_an_anchor_there_is_no_neighbour_mass():
    _, health = build_table(E[:6], np.arange(6, dtype=np.int32))
    assert health.neighbour_mass is None
    assert not health.warnings()


def test_coverage_weights_anchors_by_how_often_they_occur():
    assert anchor_coverage(np.array([6, 1, 3, 0]), np.array([0, 3])) == pytest.approx(0.6)
    assert anchor_coverage(np.zeros(4), np.array([0])) == 0


def test_progress_is_reported_after_each_block(monkeypatch):
    monkeypatch.setattr(build, "BLOCK", 32)
    calls = []
    build_table(E, IDS, temperature=9.0, on_block=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_anchors_that_do_not_fit_raise_with_a_remedy():
    with pytest.raises(InputError, match="the rule vocabulary"):
        build_table(E, IDS[:1])
    with pytest.raises(InputError, match=f"rows 0 to {V - 1}"):
        build_table(E, np.array([0, V]))
    with pytest.raises(InputError, match="another model"):
        transfer_matrix(E, np.array([-1, 3]))


def test_the_vocabulary_map_moves_each_tokens_mass_to_one_token():
    ids = np.array([2, 0, 2, -1, 4], np.int32)
    p = jnp.asarray([[0.1, 0.2, 0.3, 0.0, 0.4]])
    np.testing.assert_allclose(to_vocabulary(p, ids, 6), [[0.2, 0, 0.4, 0, 0.4, 0]], atol=1e-7)


def test_mass_without_a_token_in_the_target_is_dropped_and_the_rest_scaled_to_one():
    ids = np.array([1, -1, 0], np.int32)
    moved = to_vocabulary(jnp.asarray([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]]), ids, 3)
    np.testing.assert_allclose(moved, [[0.5, 0.5, 0], [0, 0, 0]], atol=1e-7)
