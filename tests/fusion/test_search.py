"""From the relative space back to a token: the gradient search and its closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onceedit_jax.errors import InputError
from onceedit_jax.fusion.search import (
    SearchSettings,
    gradient_search,
    lookup,
    one_hot_objective,
    search_loss,
)
from onceedit_jax.relative.build import build_table
from onceedit_jax.relative.tables import DenseTable, lookup_table
from onceedit_jax.relative.transfer import transfer_matrix

V, A, PADDING = 40, 15, 4
GRADIENT_DESCENT = SearchSettings(optimizer="sgd", schedule="constant")
search = jax.jit(gradient_search, static_argnames="settings")

# A column R[:, a*]: some entry is above zero, ties and zeros are common.
columns = npst.arrays(
    np.float64,
    st.integers(2, 12),
    elements=st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.floats(0.0, 1.0, width=32)),
).filter(lambda column: column.max() > 1e-3)


def random_table(seed=0, tokens=V, anchors=A, padding=PADDING, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    matrix = rng.dirichlet(np.full(anchors, 0.3), tokens)
    matrix[tokens - padding :] = 0
    return DenseTable(jnp.asarray(matrix, dtype))


def descend(column, rate, steps):
    """Plain gradient descent on -log(softmax(z) . r) from zeros, in NumPy alone."""
    z = np.zeros(len(column))
    for _ in range(steps):
        q = np.exp(z - z.max())
        q /= q.sum()
        mean = q @ column
        z = z + rate * q * (column - mean) / mean
        yield z


@given(column=columns, rate=st.floats(1e-3, 30.0), steps=st.integers(1, 12))
@settings(deadline=None)
def test_theorem_gradient_descent_keeps_the_largest_entry_on_top(column, rate, steps):
    largest = column.max()
    for z in descend(column, rate, steps):
        # Entries that differ by less than float64 rounding may become equal.
        assert column[np.argmax(z)] >= largest * (1 - 1e-12)
        assert np.ptp(z[column == largest]) <= 1e-9 * np.abs(z).max()  # ties stay ties


@functools.cache
def descent(steps, rate):
    settings = SearchSettings(steps, rate, "constant", reduction="sum", optimizer="sgd")
    return jax.jit(
        lambda matrix: gradient_search(
            jnp.zeros(1, jnp.int32), DenseTable(matrix), jnp.zeros((1, matrix.shape[0])),
            settings=settings,
        ).logits[0]
    )  # fmt: skip


@given(column=npst.arrays(np.float32, 12, elements=st.floats(0.0, 1.0, width=16)),
       rate=st.sampled_from([0.1, 1.0, 20.0]))  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_theorem_holds_for_the_librarys_search(column, rate):
    column[0] += 0.5
    matrix = jnp.asarray(np.stack([column, 2 - column], axis=1) / 2)  # rows sum to one
    for steps in (1, 5):
        winner = int(jnp.argmax(descent(steps, rate)(matrix)))
        assert column[winner] >= column.max() * (1 - 1e-5)


@pytest.mark.parametrize("kind", ["dense", "topk", "exact"])
def test_a_one_hot_objective_from_zeros_equals_the_lookup(kind):
    rows = np.random.default_rng(0).normal(size=(V, 8))
    table, _ = build_table(rows, np.arange(0, V, 2), temperature=6.0, kind=kind, k=8)
    relative = jax.nn.softmax(3 * jax.random.normal(jax.random.key(0), (6, V // 2)))
    result = search(
        one_hot_objective(relative), table, jnp.zeros((6, V)), settings=GRADIENT_DESCENT
    )
    expected = lookup(relative, lookup_table(table))
    np.testing.assert_array_equal(jnp.argmax(result.logits, axis=1), expected)


def test_adamw_at_the_published_setting_agrees_in_float64():
    embeddings = np.random.default_rng(1).normal(size=(300, 16))
    with jax.enable_x64(True):
        matrix = transfer_matrix(embeddings, np.arange(200), temperature=10.0)
        table = DenseTable(matrix.astype(jnp.float64))
        logits = search(
            jnp.arange(200), table, jnp.zeros((200, 300), jnp.float64), settings=SearchSettings()
        ).logits
        assert logits.dtype == jnp.float64
        winners = np.asarray(jnp.argmax(logits, axis=1))
        matrix = np.asarray(table.matrix)
    reached = matrix[winners, np.arange(200)]
    assert (reached >= (1 - 1e-3) * matrix.max(0)).all()


def test_adamw_with_a_summed_loss_has_no_such_guarantee():
    # With gradients far above eps the first step is the sign of the gradient: all entries above the
    # mean move by the same float32, and the lowest id wins. With the mean reduction gradients are
    # so small that eps keeps their order.
    rng = np.random.default_rng(0)
    matrix = (rng.random((12, 5000)) ** 4).astype(np.float32)
    wrong = {}
    for reduction in ("sum", "mean"):
        logits = search(
            jnp.arange(5000),
            DenseTable(jnp.asarray(matrix)),
            jnp.zeros((5000, 12)),
            settings=SearchSettings(steps=1, reduction=reduction),
        ).logits
        reached = matrix[np.asarray(jnp.argmax(logits, axis=1)), np.arange(5000)]
        wrong[reduction] = int(np.sum(reached < (1 - 1e-3) * matrix.max(0)))
    assert wrong["sum"] > 500
    assert wrong["mean"] == 0


def test_an_objective_given_by_its_anchor_is_the_one_hot_objective():
    table = random_table()
    relative = jax.nn.softmax(jax.random.normal(jax.random.key(1), (5, A)))
    start = jax.random.normal(jax.random.key(2), (5, V))
    dense = search(one_hot_objective(relative), table, start)
    by_anchor = search(jnp.argmax(relative, axis=1), table, start)
    np.testing.assert_allclose(dense.losses, by_anchor.losses, rtol=1e-5)
    np.testing.assert_allclose(dense.logits, by_anchor.logits, rtol=1e-4, atol=1e-4)


def test_a_start_from_the_prior_with_no_steps_gives_the_llms_own_logits():
    logits = jax.random.normal(jax.random.key(3), (5, V)).at[:, V - PADDING :].set(-1e30)
    objective = jax.nn.softmax(jax.random.normal(jax.random.key(4), (5, A)))
    result = search(objective, random_table(), logits, settings=SearchSettings(steps=0))
    np.testing.assert_array_equal(result.logits, logits)
    assert result.losses.shape == (5, 1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_padding_rows_never_win_even_with_the_largest_start(optimizer):
    start = jnp.zeros((A, V)).at[:, V - PADDING :].set(100.0)
    settings = SearchSettings(optimizer=optimizer, steps=8)
    result = search(jnp.arange(A), random_table(), start, settings=settings)
    assert int(jnp.argmax(result.logits, axis=1).max()) < V - PADDING
    probabilities = jax.nn.softmax(result.logits)
    assert float(probabilities[:, V - PADDING :].max()) == 0.0
    assert bool(jnp.isfinite(result.losses).all())


def test_zero_log_zero_is_zero_in_the_loss_and_in_its_gradient():
    # No row has mass on anchor 1, and neither has the objective.
    table = DenseTable(jnp.asarray([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]))
    objective = jnp.asarray([[0.6, 0.0, 0.4]])
    logits = jnp.zeros((1, 2))
    q = np.asarray([0.75, 0.25])
    expected = np.sum(np.asarray([0.6, 0.4]) * np.log(np.asarray([0.6, 0.4]) / q))
    loss = search_loss(logits, objective, table, "sum")
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)
    gradient = jax.grad(lambda z: search_loss(z, objective, table).sum())(logits)
    assert bool(jnp.isfinite(gradient).all())


def test_an_objective_that_no_row_can_reach_gives_finite_numbers():
    table = DenseTable(jnp.asarray([[1.0, 0.0], [1.0, 0.0]]))
    result = search(jnp.asarray([1]), table, jnp.zeros((1, 2)))
    assert bool(jnp.isfinite(result.logits).all() and jnp.isfinite(result.losses).all())


def test_the_mean_reduction_is_the_sum_over_the_number_of_anchors():
    table, logits = random_table(), jax.random.normal(jax.random.key(5), (3, V))
    distribution = jax.nn.softmax(jax.random.normal(jax.random.key(6), (3, A)))
    for objective in (distribution, jnp.arange(3)):
        mean, total = (search_loss(logits, objective, table, name) for name in ("mean", "sum"))
        np.testing.assert_allclose(mean * A, total, rtol=1e-6)
        assert (total > 0).all()


def test_examples_of_a_batch_are_searched_independently():
    table, start = random_table(), jax.random.normal(jax.random.key(7), (4, V))
    objective = jax.nn.softmax(jax.random.normal(jax.random.key(8), (4, A)))
    together = search(objective, table, start)
    for i in range(4):
        alone = search(objective[i : i + 1], table, start[i : i + 1])
        np.testing.assert_allclose(together.logits[i], alone.logits[0], rtol=1e-5, atol=1e-5)


def test_losses_are_those_before_each_step_and_after_the_last():
    table, start = random_table(padding=0), jnp.zeros((A, V))
    result = search(jnp.arange(A), table, start)
    assert result.losses.shape == (A, SearchSettings().steps + 1)
    first = search_loss(start, jnp.arange(A), table)
    np.testing.assert_allclose(result.losses[:, 0], first, rtol=1e-5)
    last = search_loss(result.logits, jnp.arange(A), table)
    np.testing.assert_allclose(result.losses[:, -1], last, rtol=1e-5)
    assert (result.losses[:, -1] < result.losses[:, 0]).all()


def test_settings_out_of_range_raise():
    with pytest.raises(InputError, match="steps=-1"):
        SearchSettings(steps=-1)
    with pytest.raises(InputError, match=r"learning_rate=0"):
        SearchSettings(learning_rate=0.0)


@pytest.mark.parametrize("start_at", ["zeros", "prior"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_search_is_torchs_adamw_cosine_schedule_and_kl_divergence(start_at, reduction):
    torch = pytest.importorskip("torch")
    table = random_table(padding=0)
    keys = jax.random.split(jax.random.key(9))
    objective = jax.nn.softmax(jax.random.normal(keys[0], (1, A)))
    start = jnp.zeros((1, V)) if start_at == "zeros" else jax.random.normal(keys[1], (1, V))
    matrix = torch.tensor(np.asarray(table.matrix), dtype=torch.float64)
    expected = torch.tensor(np.asarray(objective[0]), dtype=torch.float64)
    z = torch.tensor(np.asarray(start[0]), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([z], lr=0.15, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.15 / 4)
    divergence = torch.nn.KLDivLoss(reduction=reduction)
    losses = []
    for _ in range(5):
        loss = divergence(torch.log(torch.softmax(z, 0) @ matrix), expected)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    result = search(objective, table, start, settings=SearchSettings(reduction=reduction))
    np.testing.assert_allclose(result.losses[0, :5], losses, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(result.logits[0], z.detach().numpy(), atol=1e-5)
