"""FT-L, ROME, MEMIT and AlphaEdit: each update against its equations, each on a tiny model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baseline_cases import LOCATED, TEXTS, reading, running, says, token_batch
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_config

from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.batches import TextBatch
from onceedit_jax.editors.ftl import FTLSettings, ftl_params
from onceedit_jax.editors.layers import at, down_projection, observed, target_loss
from onceedit_jax.editors.multi_layer import (
    AlphaEditSettings,
    MEMITSettings,
    alphaedit_params,
    alphaedit_update,
    memit_params,
    memit_update,
    null_space,
)
from onceedit_jax.editors.rank_one import ROMESettings, rank_one_update, rome_params, subject_key
from onceedit_jax.editors.rows import located_edits, target_rows
from onceedit_jax.editors.statistics import ridged, second_moment
from onceedit_jax.editors.values import ValueSettings, value_change
from onceedit_jax.errors import InputError
from onceedit_jax.models.decoder import unembed
from onceedit_jax.models.parameters import init_params

RECORDS = [
    EditRecord("What is the capital of Norland?", "Ada", subject="Norland"),
    EditRecord("Who wrote The Glass Orchard, the cat?", "the Ask", subject="The Glass Orchard"),
    EditRecord("Which river runs through Vinterby?", "Sol Marrow", subject="Vinterby"),
]
PREFIXES = ("the dog ran.", "In 1987 and 2024,")
VALUE = {"steps": 30, "learning_rate": 0.5, "clamp": 50.0, "weight_decay": 0.0, "enough": 0.0}
ROME = ROMESettings(layer=0, **VALUE)
MEMIT = MEMITSettings(layers=(0, 1), moment_weight=1e-5, **VALUE)


def moment_of(rng, size, samples):
    """Keys [samples, size] in float64 and their second moment."""
    keys = rng.normal(size=(samples, size))
    return keys, keys.T @ keys / samples


def edited_says(config, params, rows):
    return says(config, running(params, config, rows.tokens, rows.positions)[0], params, rows)


def test_the_second_moment_counts_every_token_once_and_no_padding(tiny_model):
    model, tokenizer = tiny_model()
    tokens, positions = token_batch(model, tokenizer)
    keys = np.asarray(reading(model.params, model.config, tokens, positions, 1).key, np.float64)
    keys = keys[positions >= 0]
    wanted = keys.T @ keys / len(keys)
    batches = [TextBatch(tokens[:1], positions[:1]), TextBatch(tokens[1:], positions[1:])]
    found = second_moment(model.params, model.config, batches, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.asarray(ridged(found, 0.5), np.float64))
    lowest, mean = np.linalg.eigvalsh(wanted)[0], np.trace(wanted) / len(wanted)
    np.testing.assert_allclose(eigenvalues[0], lowest + 0.5 * mean, rtol=1e-4)
    with pytest.raises(ValueError, match="no tokens"):
        second_moment(model.params, model.config, [TextBatch(tokens, positions * 0 - 1)], 1)


@given(st.integers(0, 2**32 - 1))
def test_romes_update_is_the_constrained_least_squares_solution(seed):
    rng = np.random.default_rng(seed)
    _, moment = moment_of(rng, 6, 30)
    down, key, value = rng.normal(size=(6, 4)), rng.normal(size=6), rng.normal(size=4)
    found = np.asarray(rank_one_update(down, np.linalg.inv(moment), key, value), np.float64)
    np.testing.assert_allclose(key @ found, value, rtol=1e-4, atol=1e-5)
    # Equality-constrained least squares by its KKT system: 2 C X + k l^T = 0, k^T X = v - k^T W.
    system = np.block([[2 * moment, key[:, None]], [key[None], np.zeros((1, 1))]])
    right = np.concatenate([np.zeros((6, 4)), (value - key @ down)[None]])
    np.testing.assert_allclose(found - down, np.linalg.solve(system, right)[:6], atol=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_memits_update_solves_the_normal_equations(seed, weight):
    rng = np.random.default_rng(seed)
    _, moment = moment_of(rng, 6, 30)
    keys, residuals = rng.normal(size=(3, 6)), rng.normal(size=(3, 4))
    found = memit_update(moment, keys, residuals, weight)
    # Least squares over edits and, weighted, a square root of the moment.
    root = np.linalg.cholesky(weight * moment).T
    stacked = np.concatenate([keys, root]), np.concatenate([residuals, np.zeros((6, 4))])
    wanted = np.linalg.lstsq(*stacked, rcond=None)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_alphaedits_update_leaves_the_keys_behind_its_moment_alone(seed, ridge):
    rng = np.random.default_rng(seed)
    span = rng.normal(size=(4, 8))
    known = rng.normal(size=(40, 4)) @ span
    moment = known.T @ known / len(known)
    keys, residuals = rng.normal(size=(3, 8)), rng.normal(size=(3, 5))
    projection = null_space(moment, 1e-9)
    # The projection off the span, by its own definition.
    np.testing.assert_allclose(projection, np.eye(8) - np.linalg.pinv(span) @ span, atol=1e-8)
    found = np.asarray(alphaedit_update(projection, keys, residuals, ridge), np.float64)
    assert np.abs(known @ found).max() < 1e-5 * np.abs(known).max()
    assert np.abs(keys @ found).max() > 1e-2
    # The paper's closed form as it is written: columns for rows, a matrix without symmetry.
    columns = keys.T
    inverse = np.linalg.inv(columns @ columns.T @ projection + ridge * np.eye(8))
    wanted = residuals.T @ columns.T @ projection @ inverse
    np.testing.assert_allclose(found, wanted.T, rtol=1e-4, atol=1e-6)


def test_an_edits_columns_are_those_of_its_subject_and_its_target(tiny_model):
    _, tokenizer = tiny_model()
    for record, edit in zip(
        RECORDS, located_edits(RECORDS, tokenizer, prefixes=PREFIXES), strict=True
    ):
        for row, prefix in enumerate(("", *(f"{p} " for p in PREFIXES))):
            tokens = np.asarray(edit.prompts.tokens)[row]
            length = int((np.asarray(edit.prompts.positions)[row] >= 0).sum())
            assert (
                tokenizer.decode(np.asarray(tokens[:length]).tolist())
                == f"{prefix}{record.prompt} {record.target}"
            )
            column = int(edit.subject[row])
            read = tokenizer.decode(np.asarray(tokens[: column + 1]).tolist())
            before = tokenizer.decode(np.asarray(tokens[:column]).tolist())
            end = len(prefix) + record.prompt.index(record.subject) + len(record.subject)
            assert len(before) < end <= len(read)
            there = np.asarray(edit.prompts.targets)[row] >= 0
            columns = np.asarray(edit.prompts.columns)[row][there]
            assert np.array_equal(np.asarray(edit.prompts.targets)[row][there], tokens[columns + 1])
            assert columns[-1] == length - 2
            assert (
                tokenizer.decode(np.asarray(tokens[: columns[0] + 1]).tolist())
                == prefix + record.prompt
            )
        essence = np.asarray(edit.essence.tokens)[0]
        assert tokenizer.decode(
            np.asarray(essence[: int(edit.essence_subject[0]) + 1]).tolist()
        ).startswith(record.subject)
        assert np.all(edit.essence.targets == -1)


@pytest.mark.parametrize("subject", ["Sudland", None, ""])
def test_a_subject_that_is_not_in_its_prompt_is_named(tiny_model, subject):
    record = dataclasses.replace(RECORDS[0], subject=subject, index=7)
    with pytest.raises(InputError, match=r"edit 7: its subject .* is not in its prompt"):
        located_edits([record], tiny_model()[1])


def test_the_loss_of_a_target_is_that_of_its_tokens(tiny_model):
    model, tokenizer = tiny_model()
    rows = target_rows(RECORDS, tokenizer, batch_size=4)[0]  # one row only fills the batch
    states = running(model.params, model.config, rows.tokens, rows.positions)[0]
    logits = np.asarray(unembed(model.params, model.config, states), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    means = []
    for i, record in enumerate(RECORDS):
        tokens, start = tokenizer.encode_pair(record.prompt, record.target)
        means.append(-np.mean([log_p[i, n - 1, tokens[n]] for n in range(start, len(tokens))]))
    found = target_loss(model.params, model.config, states, rows)
    np.testing.assert_allclose(found, np.mean(means), rtol=1e-5)


def test_ftl_learns_its_edits_in_one_matrix(tiny_model):
    model, tokenizer = tiny_model()
    batches = target_rows(RECORDS, tokenizer, batch_size=2)
    settings = FTLSettings(1, learning_rate=2e-2, epochs=60, bound=1.0)
    edited = ftl_params(model.params, model.config, batches, settings)
    assert not any(edited_says(model.config, model.params, rows)[0] for rows in batches)
    assert all(edited_says(model.config, edited, rows).all() for rows in batches)
    assert changed_leaves(model.params, edited) == {"down": [1]}
    one, all_of_them = (
        ftl_params(model.params, model.config, batches, dataclasses.replace(settings, **change))
        for change in ({"epochs": 1, "enough": 0.0}, {"enough": 1e3})
    )
    jax.tree.map(np.testing.assert_array_equal, one, all_of_them)


def test_ftl_stays_inside_its_bound_and_reaches_it(tiny_model):
    model, tokenizer = tiny_model()
    batches = target_rows(RECORDS, tokenizer, batch_size=3)
    settings = FTLSettings(0, learning_rate=1e-2, epochs=10, bound=0.02)
    edited = ftl_params(model.params, model.config, batches, settings)
    gap = np.abs(down_projection(edited, 0) - down_projection(model.params, 0))
    assert gap.max() == pytest.approx(0.02, rel=1e-5)


def changed_leaves(before, after):
    """Names of the layers' arrays that differ, with the layers in which they do."""
    found = {}
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(before["layers"]),
        jax.tree.leaves(after["layers"]),
        strict=True,
    )
    for (path, a), b in pairs:
        layers = [i for i in range(len(a)) if not np.array_equal(a[i], b[i])]
        if layers:
            found[path[-1].key] = layers
    np.testing.assert_array_equal(before["embed"]["tokens"], after["embed"]["tokens"])
    return found


def moments(model, tokenizer, layers, ridge=0.01):
    batch = token_batch(model, tokenizer)
    return {
        layer: ridged(second_moment(model.params, model.config, [batch], layer), ridge)
        for layer in layers
    }


def test_the_change_of_a_value_makes_the_target_follow_within_its_clamp(tiny_model):
    model, tokenizer = tiny_model(80)
    edit = located_edits(LOCATED, tokenizer, prefixes=PREFIXES)[0]
    params, config = model.params, model.config

    def states(delta, rows, subject):
        there = jax.nn.one_hot(subject, rows.tokens.shape[1])[:, :, None]
        place = rows.tokens, rows.positions, 0
        return reading(params, config, *place, lambda key, output: output + there * delta).states

    def next_token(delta):
        last = jnp.argmax(edit.essence.positions, axis=1)
        read = at(last, states(delta, edit.essence, edit.essence_subject))
        return np.asarray(jax.nn.log_softmax(unembed(params, config, read)), np.float64)

    def divergence(delta):
        after, before = next_token(delta), next_token(0 * delta)
        return np.sum(np.exp(after) * (after - before))

    def found(**changes):
        settings = dataclasses.replace(ValueSettings(**VALUE), clamp=8.0, kl_weight=0.0)
        return value_change(params, config, edit, 0, dataclasses.replace(settings, **changes))

    free = found()
    assert says(config, states(free, edit.prompts, edit.subject), params, edit.prompts).all()
    value = at(edit.subject, observed(params, config, edit.prompts, 0).output)[0]
    norm = float(jnp.linalg.norm(value))
    assert float(jnp.linalg.norm(free)) == pytest.approx(8 * norm, rel=1e-4)
    assert divergence(found(kl_weight=20.0)) < 0.5 * divergence(free)
    assert jnp.linalg.norm(found(weight_decay=1.0)) < 4 * norm
    # The descent ends where the objective is low enough: before the clamp, or before it begins.
    assert 0 < jnp.linalg.norm(found(enough=3.0)) < 0.99 * jnp.linalg.norm(free)
    assert jnp.linalg.norm(found(enough=1e3)) == 0


def test_a_subjects_key_is_the_mean_over_its_prompts(tiny_model):
    model, tokenizer = tiny_model(80)
    edit = located_edits(LOCATED, tokenizer, prefixes=PREFIXES)[1]
    subject = LOCATED[1].subject
    texts = [f"Who wrote {subject}", *(f"{p} Who wrote {subject}" for p in PREFIXES)]
    keys = [
        # What follows a token does not change its key: these texts end with the subject.
        reading(model.params, model.config, *token_batch(model, tokenizer, [text]), 0).key[0]
        for text in texts
    ]
    lasts = [key[len(tokenizer.encode(text)) - 1] for key, text in zip(keys, texts, strict=True)]
    found = subject_key(model.params, model.config, edit, 0)
    np.testing.assert_allclose(found, np.mean(lasts, axis=0), rtol=1e-4, atol=1e-5)


def test_rome_makes_its_edit_the_argmax_behind_every_prefix(tiny_model):
    model, tokenizer = tiny_model(80)
    edit = located_edits(LOCATED, tokenizer, prefixes=PREFIXES)[0]
    moment = moments(model, tokenizer, [0])[0]
    edited = rome_params(model.params, model.config, [edit], moment, ROME)
    assert not edited_says(model.config, model.params, edit.prompts).any()
    assert edited_says(model.config, edited, edit.prompts).all()
    assert changed_leaves(model.params, edited) == {"down": [0]}
    # W' k* = v*, with the value that gradient descent found.
    key = np.asarray(subject_key(model.params, model.config, edit, 0), np.float64)
    delta = value_change(model.params, model.config, edit, 0, ROME)
    change = np.asarray(down_projection(edited, 0), np.float64) - down_projection(model.params, 0)
    np.testing.assert_allclose(key @ change, delta, rtol=1e-3, atol=1e-3)


def test_rome_edits_one_after_the_other(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = located_edits(LOCATED, tokenizer, prefixes=PREFIXES)[:2]
    moment = moments(model, tokenizer, [0])[0]
    both = rome_params(model.params, model.config, edits, moment, ROME)
    first = rome_params(model.params, model.config, edits[:1], moment, ROME)
    second = rome_params(first, model.config, edits[1:], moment, ROME)
    jax.tree.map(np.testing.assert_array_equal, both, second)
    assert edited_says(model.config, both, edits[1].prompts).all()


def test_memit_makes_all_its_edits_the_argmax(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = located_edits(LOCATED, tokenizer)
    stats = moments(model, tokenizer, (0, 1))
    edited = memit_params(model.params, model.config, edits, stats, MEMIT)
    for edit in edits:
        assert not edited_says(model.config, model.params, edit.prompts).any()
        assert edited_says(model.config, edited, edit.prompts).all()
    assert changed_leaves(model.params, edited) == {"down": [0, 1]}


def test_memit_shares_an_edit_out_among_layers(tiny_model):
    """The first of two layers brings half of what the last one alone would have to."""
    model, tokenizer = tiny_model(80)
    edit = located_edits(LOCATED, tokenizer)[0]
    stats = moments(model, tokenizer, (0, 1))
    edited = memit_params(model.params, model.config, [edit], stats, MEMIT)
    delta = value_change(model.params, model.config, edit, 1, MEMIT)
    key = subject_key(model.params, model.config, edit, 0)
    change = down_projection(edited, 0) - down_projection(model.params, 0)
    np.testing.assert_allclose(key @ change, delta / 2, rtol=1e-2, atol=1e-2)

    def stream(params):
        return at(edit.subject, observed(params, model.config, edit.prompts, 1).stream)[0]

    moved = stream(edited) - stream(model.params)
    np.testing.assert_allclose(moved, delta, rtol=1e-2, atol=1e-2)


def test_an_edit_is_not_shared_out_behind_a_norm(tiny_model):
    _, tokenizer = tiny_model(80)
    config = tiny_config(len(tokenizer.vocabulary), post_norms=True)
    params = init_params(config, jax.random.key(0))
    edits = located_edits(LOCATED[:1], tokenizer)
    stats = {layer: jnp.eye(config.mlp_size) for layer in (0, 1)}
    with pytest.raises(InputError, match="layers 0, 1: this model normalises"):
        memit_params(params, config, edits, stats, MEMIT)
    one = dataclasses.replace(MEMIT, layers=(1,))
    edited = memit_params(params, config, edits, stats, one)
    assert edited_says(config, edited, edits[0].prompts).all()


def test_alphaedit_makes_its_edits_the_argmax_and_leaves_known_keys_alone(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = located_edits(LOCATED, tokenizer)
    tokens, positions = token_batch(model, tokenizer, TEXTS[:1])
    moment = second_moment(model.params, model.config, [TextBatch(tokens, positions)], 0)
    settings = AlphaEditSettings(layers=(0,), threshold=1e-5, ridge=1e-3, **VALUE)
    edited = alphaedit_params(model.params, model.config, edits, {0: moment}, settings)
    for edit in edits:
        assert edited_says(model.config, edited, edit.prompts).all()
    change = np.asarray(down_projection(edited, 0) - down_projection(model.params, 0), np.float64)
    keys = np.asarray(reading(model.params, model.config, tokens, positions, 0).key)
    keys = keys[positions >= 0]
    others = np.stack([subject_key(model.params, model.config, edit, 0) for edit in edits])
    assert np.abs(keys @ change).max() < 0.02 * np.abs(others @ change).max()
