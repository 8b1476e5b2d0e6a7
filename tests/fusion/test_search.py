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
    one_hot_target,
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
        # Entries that differ by less than float64 rounding may meet.
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
def test_theorem_holds_for_the_search_that_is_shipped(column, rate):
    column[0] += 0.5
    matrix = jnp.asarray(np.stack([column, 2 - column], axis=1) / 2)  # rows sum to one
    for steps in (1, 5):
        winner = int(jnp.argmax(descent(steps, rate)(matrix)))
        assert column[winner] >= column.max() * (1 - 1e-5)


@pytest.mark.parametrize("kind", ["dense", "topk", "exact"])
def test_a_one_hot_target_from_zeros_equals_the_lookup(kind):
    rows = np.random.default_rng(0).normal(size=(V, 8))
    table, _ = build_table(rows, np.arange(0, V, 2), temperature=6.0, kind=kind, k=8)
    relative = jax.nn.softmax(3 * jax.random.normal(jax.random.key(0), (6, V // 2)))
    found = search(
        one_hot_target(relative), table, jnp.zeros((6, V)), settings=GRADIENT_DESCENT
    ).logits
    expected = lookup(relative, lookup_table(table))
    np.testing.assert_array_equal(jnp.argmax(found, axis=1), expected)


def test_adamw_at_the_published_setting_agrees_in_float64():
    embeddings = np.random.default_rng(1).normal(size=(300, 16))
    with jax.enable_x64(True):
        matrix = transfer_matrix(embeddings, np.arange(200), temperature=10.0)
        table = DenseTable(matrix.astype(jnp.float64))
        found = search(
            jnp.arange(200), table, jnp.zeros((200, 300), jnp.float64), settings=SearchSettings()
        ).logits
        assert found.dtype == jnp.float64
        winners = np.asarray(jnp.argmax(found, axis=1))
        matrix = np.asarray(table.matrix)
    reached = matrix[winners, np.arange(200)]
    assert (reached >= (1 - 1e-3) * matrix.max(0)).all()


def test_adamw_with_a_summed_loss_has_no_such_guarantee():
    # Gradients far above eps make its first step the sign of the gradient: whatever is above the
    # mean moves by the same float32, and the lowest id wins. The mean reduction lets eps decide.
    rng = np.random.default_rng(0)
    matrix = (rng.random((12, 5000)) ** 4).astype(np.float32)
    wrong = {}
    for reduction in ("sum", "mean"):
        found = search(
            jnp.arange(5000),
            DenseTable(jnp.asarray(matrix)),
            jnp.zeros((5000, 12)),
            settings=SearchSettings(steps=1, reduction=reduction),
        ).logits
        reached = matrix[np.asarray(jnp.argmax(found, axis=1)), np.arange(5000)]
        wrong[reduction] = int(np.sum(reached < (1 - 1e-3) * matrix.max(0)))
    assert wrong["sum"] > 500
    assert wrong["mean"] == 0


def test_a_target_given_by_its_anchor_is_the_one_hot_target():
    table = random_table()
    relative = jax.nn.softmax(jax.random.normal(jax.random.key(1), (5, A)))
    start = jax.random.normal(jax.random.key(2), (5, V))
    dense = search(one_hot_target(relative), table, start)
    short = search(jnp.argmax(relative, axis=1), table, start)
    np.testing.assert_allclose(dense.losses, short.losses, rtol=1e-5)
    np.testing.assert_allclose(dense.logits, short.logits, rtol=1e-4, atol=1e-4)


def test_a_prior_start_with_no_steps_is_the_llm_itself():
    logits = jax.random.normal(jax.random.key(3), (5, V)).at[:, V - PADDING :].set(-1e30)
    target = jax.nn.softmax(jax.random.normal(jax.random.key(4), (5, A)))
    found = search(target, random_table(), logits, settings=SearchSettings(steps=0))
    np.testing.assert_array_equal(found.logits, logits)
    assert found.losses.shape == (5, 1)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_padding_rows_never_win_wherever_they_start(optimizer):
    start = jnp.zeros((A, V)).at[:, V - PADDING :].set(100.0)
    settings = SearchSettings(optimizer=optimizer, steps=8)
    found = search(jnp.arange(A), random_table(), start, settings=settings)
    assert int(jnp.argmax(found.logits, axis=1).max()) < V - PADDING
    probabilities = jax.nn.softmax(found.logits)
    assert float(probabilities[:, V - PADDING :].max()) == 0.0
    assert bool(jnp.isfinite(found.losses).all())


def test_zero_log_zero_is_zero_in_the_loss_and_in_its_gradient():
    # Anchor 1 is out of reach of every row, and the target does not ask for it.
    table = DenseTable(jnp.asarray([[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]))
    target = jnp.asarray([[0.6, 0.0, 0.4]])
    logits = jnp.zeros((1, 2))
    q = np.asarray([0.75, 0.25])
    expected = np.sum(np.asarray([0.6, 0.4]) * np.log(np.asarray([0.6, 0.4]) / q))
    loss = search_loss(logits, target, table, "sum")
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)
    gradient = jax.grad(lambda z: search_loss(z, target, table).sum())(logits)
    assert bool(jnp.isfinite(gradient).all())


def test_a_target_out_of_every_rows_reach_gives_numbers_all_the_same():
    table = DenseTable(jnp.asarray([[1.0, 0.0], [1.0, 0.0]]))
    found = search(jnp.asarray([1]), table, jnp.zeros((1, 2)))
    assert bool(jnp.isfinite(found.logits).all() and jnp.isfinite(found.losses).all())


def test_the_mean_reduction_is_the_sum_over_the_number_of_anchors():
    table, logits = random_table(), jax.random.normal(jax.random.key(5), (3, V))
    for target in (jax.nn.softmax(jax.random.normal(jax.random.key(6), (3, A))), jnp.arange(3)):
        mean, total = (search_loss(logits, target, table, name) for name in ("mean", "sum"))
        np.testing.assert_allclose(mean * A, total, rtol=1e-6)
        assert (total > 0).all()


def test_examples_of_a_batch_do_not_touch_one_another():
    table, start = random_table(), jax.random.normal(jax.random.key(7), (4, V))
    target = jax.nn.softmax(jax.random.normal(jax.random.key(8), (4, A)))
    together = search(target, table, start)
    for i in range(4):
        alone = search(target[i : i + 1], table, start[i : i + 1])
        np.testing.assert_allclose(together.logits[i], alone.logits[0], rtol=1e-5, atol=1e-5)


def test_losses_are_those_before_each_step_and_after_the_last():
    table, start = random_table(padding=0), jnp.zeros((A, V))
    found = search(jnp.arange(A), table, start)
    assert found.losses.shape == (A, SearchSettings().steps + 1)
    np.testing.assert_allclose(
        found.losses[:, 0], search_loss(start, jnp.arange(A), table), rtol=1e-5
    )
    end = search_loss(found.logits, jnp.arange(A), table)
    np.testing.assert_allclose(found.losses[:, -1], end, rtol=1e-5)
    assert (found.losses[:, -1] < found.losses[:, 0]).all()


def test_settings_that_cannot_search_are_refused():
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
    target = jax.nn.softmax(jax.random.normal(keys[0], (1, A)))
    start = jnp.zeros((1, V)) if start_at == "zeros" else jax.random.normal(keys[1], (1, V))
    matrix = torch.tensor(np.asarray(table.matrix), dtype=torch.float64)
    goal = torch.tensor(np.asarray(target[0]), dtype=torch.float64)
    z = torch.tensor(np.asarray(start[0]), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.AdamW([z], lr=0.15, betas=(0.9, 0.999))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.15 / 4)
    divergence = torch.nn.KLDivLoss(reduction=reduction)
    losses = []
    for _ in range(5):
        loss = divergence(torch.log(torch.softmax(z, 0) @ matrix), goal)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    found = search(target, table, start, settings=SearchSettings(reduction=reduction))
    np.testing.assert_allclose(found.losses[0, :5], losses, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.logits[0], z.detach().numpy(), atol=1e-5)
