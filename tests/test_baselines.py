"""Baselines: every update against its paper's equations, every method on a tiny model."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import tiny_config
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.baselines.edits import located_edits, target_rows
from onceedit_jax.baselines.ftl import FTLSettings, ftl
from onceedit_jax.baselines.grace import (
    Codebook,
    GRACESettings,
    distances,
    empty_codebook,
    grace,
    grace_states,
    lookup,
)
from onceedit_jax.baselines.layers import (
    at,
    down_projection,
    observed,
    target_loss,
    with_down_projection,
)
from onceedit_jax.baselines.memit import (
    AlphaEditSettings,
    MEMITSettings,
    alphaedit,
    alphaedit_update,
    memit,
    memit_update,
    null_space,
)
from onceedit_jax.baselines.rome import rank_one_update, rome, subject_key
from onceedit_jax.baselines.scoring import score, states_of
from onceedit_jax.baselines.statistics import ridged, second_moment
from onceedit_jax.baselines.values import ValueSettings, value_change
from onceedit_jax.baselines.wise import (
    SideMemory,
    WISESettings,
    activation,
    margin_loss,
    wise,
    wise_states,
)
from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.ensemble import Target
from onceedit_jax.errors import InputError
from onceedit_jax.experiment.lab import Lab
from onceedit_jax.experiment.page import save_figure
from onceedit_jax.experiment.runner import load_experiment
from onceedit_jax.models.decoder import hidden_states, init_params, stack_layers, unembed
from onceedit_jax.models.intervention import isolate_layer, observe
from onceedit_jax.shapes import pad_rows, row_positions

ROOT = Path(__file__).parents[1]
RECORDS = [
    EditRecord("What is the capital of Norland?", "Ada", subject="Norland"),
    EditRecord("Who wrote The Glass Orchard, the cat?", "the Ask", subject="The Glass Orchard"),
    EditRecord("Which river runs through Vinterby?", "Sol Marrow", subject="Vinterby"),
]
# Random layers carry little from one token to the next: the subject is the last, the target one.
LOCATED = [
    EditRecord("What is the capital of Norland", "Orchard", subject="Norland"),
    EditRecord("Who wrote The Glass Orchard", "river", subject="The Glass Orchard"),
    EditRecord("Which river runs through Vinterby", "capital", subject="Vinterby"),
]
PREFIXES = ("the dog ran.", "In 1987 and 2024,")
TEXTS = ("How far is the harbour from the old bridge?", "the cat sat on the mat", "an été à la mer")
VALUE = {"steps": 30, "learning_rate": 0.5, "clamp": 50.0, "weight_decay": 0.0, "enough": 0.0}
MEMIT = MEMITSettings(moment_weight=1e-5, **VALUE)


def moment_of(rng, size, samples):
    """Keys [samples, size] in float64 and their second moment."""
    keys = rng.normal(size=(samples, size))
    return keys, keys.T @ keys / samples


def token_batch(model, tokenizer, texts=TEXTS):
    rows = [tokenizer.encode(text) for text in texts]
    width = max(map(len, rows)) + 3
    return pad_rows(rows, width=width), row_positions([len(row) for row in rows], width=width)


reading = jax.jit(observe, static_argnames=("config", "layer", "change"))
running = jax.jit(hidden_states, static_argnames="config")


def says(config, states, params, rows):
    """Whether each row's target is the argmax at every one of its positions."""
    read = jnp.take_along_axis(states, rows.columns[:, :, None], axis=1)
    said = jnp.argmax(unembed(params, config, read), -1)
    return np.asarray(jnp.all((said == rows.targets) | (rows.targets < 0), axis=1))


def edited_says(config, params, rows):
    return says(config, running(params, config, rows.tokens, rows.positions)[0], params, rows)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 3, "sliding_layers": (True, False, True), "sliding_window": 3},
        {"post_norms": True, "qk_norm": True, "norm_offset": 1.0},
        {"parallel_block": True, "gated_mlp": False, "mlp_bias": True, "norm": "layer"},
        {"rope": None},
    ],
)
def test_a_pass_that_changes_nothing_is_the_decoders(changes):
    config = tiny_config(50, **changes)
    params = init_params(config, jax.random.key(0))
    # Biases begin at zero, which would hide one that is left out.
    params = jax.tree.map(lambda a: a + 0.01, params)
    tokens = jnp.arange(16).reshape(2, 8)
    positions = row_positions([8, 5], width=8)
    wanted = running(params, config, tokens, positions)[0]
    mlp = jax.tree.map(np.asarray, params["layers"]["mlp"])
    for layer in range(config.num_layers):
        seen = reading(params, config, tokens, positions, layer)
        np.testing.assert_allclose(seen.states, wanted, rtol=1e-5, atol=1e-5)
        written = np.asarray(seen.key, np.float64) @ mlp["down"][layer]
        written += mlp["down_bias"][layer] if config.mlp_bias else 0
        np.testing.assert_allclose(seen.output, written, rtol=1e-5, atol=1e-5)


def test_a_change_reaches_its_layer_and_those_above_and_no_earlier_token():
    config = tiny_config(50, num_layers=3)
    params = init_params(config, jax.random.key(0))
    tokens, positions = jnp.arange(6)[None], jnp.arange(6)[None]
    delta = jnp.zeros((1, 6, 32)).at[0, 3].set(1.0)

    def run(change):
        return reading(params, config, tokens, positions, 1, change)

    plain, changed = run(lambda key, out: out), run(lambda key, out: out + delta)
    np.testing.assert_array_equal(changed.key, plain.key)
    np.testing.assert_array_equal(changed.output, plain.output)
    np.testing.assert_allclose(changed.stream - plain.stream, delta, atol=1e-6)
    np.testing.assert_array_equal(changed.states[:, :3], plain.states[:, :3])
    assert np.all(np.any(changed.states[:, 3:] != plain.states[:, 3:], axis=-1))


def test_a_layer_alone_in_its_group_is_the_same_model():
    config = tiny_config(50, num_layers=3)
    params = init_params(config, jax.random.key(0))
    for layer in range(3):
        isolated = isolate_layer(params, layer)
        assert isolate_layer(isolated, layer) is isolated
        jax.tree.map(np.testing.assert_array_equal, stack_layers(isolated), params)
        down = down_projection(params, layer)
        np.testing.assert_array_equal(down, params["layers"]["mlp"]["down"][layer])
        other = stack_layers(with_down_projection(params, layer, down + 1))["layers"]["mlp"]["down"]
        moved = np.any(other != params["layers"]["mlp"]["down"], axis=(1, 2))
        assert moved.tolist() == [i == layer for i in range(3)]
    with pytest.raises(InputError, match="layer 3: expected one of 0 to 2"):
        isolate_layer(params, 3)


def test_the_second_moment_counts_every_token_once_and_no_padding(tiny_model):
    model, tokenizer = tiny_model()
    tokens, positions = token_batch(model, tokenizer)
    keys = np.asarray(reading(model.params, model.config, tokens, positions, 1).key, np.float64)
    keys = keys[positions >= 0]
    wanted = keys.T @ keys / len(keys)
    batches = [(tokens[:1], positions[:1]), (tokens[1:], positions[1:])]
    found = second_moment(model.params, model.config, batches, 1)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    eigenvalues = np.linalg.eigvalsh(np.asarray(ridged(found, 0.5), np.float64))
    lowest, mean = np.linalg.eigvalsh(wanted)[0], np.trace(wanted) / len(wanted)
    np.testing.assert_allclose(eigenvalues[0], lowest + 0.5 * mean, rtol=1e-4)
    with pytest.raises(ValueError, match="no tokens"):
        second_moment(model.params, model.config, [(tokens, positions * 0 - 1)], 1)


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
            assert tokenizer.decode(tokens[:length]) == f"{prefix}{record.prompt} {record.target}"
            column = int(edit.subject[row])
            read = tokenizer.decode(tokens[: column + 1])
            before = tokenizer.decode(tokens[:column])
            end = len(prefix) + record.prompt.index(record.subject) + len(record.subject)
            assert len(before) < end <= len(read)
            there = np.asarray(edit.prompts.targets)[row] >= 0
            columns = np.asarray(edit.prompts.columns)[row][there]
            assert np.array_equal(np.asarray(edit.prompts.targets)[row][there], tokens[columns + 1])
            assert columns[-1] == length - 2
            assert tokenizer.decode(tokens[: columns[0] + 1]) == prefix + record.prompt
        essence = np.asarray(edit.essence.tokens)[0]
        assert tokenizer.decode(essence[: int(edit.essence_subject[0]) + 1]).startswith(
            record.subject
        )
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
    settings = FTLSettings(learning_rate=2e-2, epochs=60, bound=1.0)
    edited = ftl(model.params, model.config, batches, 1, settings)
    assert not any(edited_says(model.config, model.params, rows)[0] for rows in batches)
    assert all(edited_says(model.config, edited, rows).all() for rows in batches)
    assert changed_leaves(model.params, edited) == {"down": [1]}
    one, all_of_them = (
        ftl(model.params, model.config, batches, 1, dataclasses.replace(settings, **change))
        for change in ({"epochs": 1, "enough": 0.0}, {"enough": 1e3})
    )
    jax.tree.map(np.testing.assert_array_equal, one, all_of_them)


def test_ftl_stays_inside_its_bound_and_reaches_it(tiny_model):
    model, tokenizer = tiny_model()
    batches = target_rows(RECORDS, tokenizer, batch_size=3)
    settings = FTLSettings(learning_rate=1e-2, epochs=10, bound=0.02)
    edited = ftl(model.params, model.config, batches, 0, settings)
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
    settings = ValueSettings(**VALUE)
    edited = rome(model.params, model.config, [edit], 0, moment, settings)
    assert not edited_says(model.config, model.params, edit.prompts).any()
    assert edited_says(model.config, edited, edit.prompts).all()
    assert changed_leaves(model.params, edited) == {"down": [0]}
    # W' k* = v*, with the value that gradient descent found.
    key = np.asarray(subject_key(model.params, model.config, edit, 0), np.float64)
    delta = value_change(model.params, model.config, edit, 0, settings)
    change = np.asarray(down_projection(edited, 0), np.float64) - down_projection(model.params, 0)
    np.testing.assert_allclose(key @ change, delta, rtol=1e-3, atol=1e-3)


def test_rome_edits_one_after_the_other(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = located_edits(LOCATED, tokenizer, prefixes=PREFIXES)[:2]
    moment = moments(model, tokenizer, [0])[0]
    settings = ValueSettings(**VALUE)
    both = rome(model.params, model.config, edits, 0, moment, settings)
    first = rome(model.params, model.config, edits[:1], 0, moment, settings)
    second = rome(first, model.config, edits[1:], 0, moment, settings)
    jax.tree.map(np.testing.assert_array_equal, both, second)
    assert edited_says(model.config, both, edits[1].prompts).all()


def test_memit_makes_all_its_edits_the_argmax(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = located_edits(LOCATED, tokenizer)
    stats = moments(model, tokenizer, (0, 1))
    edited = memit(model.params, model.config, edits, stats, MEMIT)
    for edit in edits:
        assert not edited_says(model.config, model.params, edit.prompts).any()
        assert edited_says(model.config, edited, edit.prompts).all()
    assert changed_leaves(model.params, edited) == {"down": [0, 1]}


def test_memit_shares_an_edit_out_among_layers(tiny_model):
    """The first of two layers brings half of what the last one alone would have to."""
    model, tokenizer = tiny_model(80)
    edit = located_edits(LOCATED, tokenizer)[0]
    stats = moments(model, tokenizer, (0, 1))
    edited = memit(model.params, model.config, [edit], stats, MEMIT)
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
        memit(params, config, edits, stats)
    edited = memit(params, config, edits, {1: stats[1]}, MEMIT)
    assert edited_says(config, edited, edits[0].prompts).all()


def test_alphaedit_makes_its_edits_the_argmax_and_leaves_known_keys_alone(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = located_edits(LOCATED, tokenizer)
    tokens, positions = token_batch(model, tokenizer, TEXTS[:1])
    moment = second_moment(model.params, model.config, [(tokens, positions)], 0)
    settings = AlphaEditSettings(threshold=1e-5, ridge=1e-3, **VALUE)
    edited = alphaedit(model.params, model.config, edits, {0: moment}, settings)
    for edit in edits:
        assert edited_says(model.config, edited, edit.prompts).all()
    change = np.asarray(down_projection(edited, 0) - down_projection(model.params, 0), np.float64)
    keys = np.asarray(reading(model.params, model.config, tokens, positions, 0).key)
    keys = keys[positions >= 0]
    others = np.stack([subject_key(model.params, model.config, edit, 0) for edit in edits])
    assert np.abs(keys @ change).max() < 0.02 * np.abs(others @ change).max()


def test_a_codebook_answers_inside_its_radius_and_nowhere_else():
    rng = np.random.default_rng(0)
    keys, values = rng.normal(size=(3, 4)), rng.normal(size=(3, 2))
    book = Codebook(
        *(jnp.asarray(a, jnp.float32) for a in (keys, values)), jnp.array([0.5, 0.1, -1.0])
    )
    step = rng.normal(size=4)
    step /= np.linalg.norm(step)
    # In the first key's radius, outside of the second's, and where the third has not been written.
    queries = np.stack([keys[0] + 0.4 * step, keys[1] + 0.2 * step, keys[2]])
    key = jnp.zeros((3, 5, 4)).at[:, 2].set(jnp.asarray(queries, jnp.float32))
    output = jnp.asarray(rng.normal(size=(3, 5, 2)), jnp.float32)
    wanted_gaps = np.linalg.norm(queries[:, None] - keys[None, :2], axis=-1)
    np.testing.assert_allclose(distances(book, key[:, 2])[:, :2], wanted_gaps, rtol=1e-5)
    assert np.all(np.isinf(distances(book, key[:, 2])[:, 2]))
    found = np.asarray(lookup(book, jnp.full(3, 2))(key, output))
    np.testing.assert_array_equal(found[0, 2], book.values[0])
    np.testing.assert_array_equal(np.delete(found[0], 2, 0), np.delete(output[0], 2, 0))
    np.testing.assert_array_equal(found[1:], output[1:])


def test_grace_makes_its_edits_the_argmax_and_nothing_else_changes(tiny_model):
    model, tokenizer = tiny_model(80)
    edits = target_rows(LOCATED, tokenizer, batch_size=1)
    settings = GRACESettings(radius=0.01, steps=60, learning_rate=0.5)
    book = grace(model.params, model.config, edits, 0, settings)
    assert np.all(book.radii == np.float32(0.01))

    def states(rows, book):
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        return grace_states(model.params, model.config, *place, book, 0)

    empty = empty_codebook(model.config, len(edits))
    together = target_rows(LOCATED, tokenizer, batch_size=3)[0]
    assert not says(model.config, states(together, empty), model.params, together).any()
    assert says(model.config, states(together, book), model.params, together).all()
    other = [EditRecord(text, "Ada") for text in TEXTS]
    rows = target_rows(other, tokenizer, batch_size=3)[0]
    np.testing.assert_array_equal(states(rows, book), states(rows, empty))
    plain = running(model.params, model.config, rows.tokens, rows.positions)[0]
    np.testing.assert_allclose(states(rows, book), plain, atol=1e-5)


def test_grace_widens_a_key_of_the_same_target_and_halves_the_way_to_another(tiny_model):
    model, tokenizer = tiny_model()
    first = EditRecord("What is the capital of Norland?", "Ada")
    again = EditRecord("What is the capital of Vinterby?", "Ada")
    other = EditRecord("What is the capital of Vinterby?", "Sol")

    def book(*records):
        edits = target_rows(records, tokenizer, batch_size=1)
        settings = GRACESettings(radius=1e3, steps=1)
        return grace(model.params, model.config, edits, 0, settings)

    keys = [book(record).keys[0] for record in (first, again)]
    gap = float(jnp.linalg.norm(keys[0] - keys[1]))
    assert book(first, again).radii.tolist() == [1e3, -1.0]
    np.testing.assert_allclose(book(first, other).radii, [gap / 2, gap / 2], rtol=1e-4)
    edits = target_rows((first, again), tokenizer, batch_size=1)
    narrow = grace(model.params, model.config, edits, 0, GRACESettings(radius=0.6 * gap, steps=1))
    np.testing.assert_allclose(narrow.radii, [1.001 * gap, -1.0], rtol=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_a_side_memorys_activation_and_hinges_are_the_papers(seed):
    rng = np.random.default_rng(seed)
    key, change = rng.normal(size=(2, 4, 6)), rng.normal(size=(6, 3))
    columns = np.array([1, 3])
    prompts = [key[i, : last + 1] for i, last in enumerate(columns)]
    wanted = np.array([np.mean(np.linalg.norm(k @ change, axis=-1)) for k in prompts])
    arrays = (jnp.asarray(a, jnp.float32) for a in (key, change))
    np.testing.assert_allclose(activation(*arrays, jnp.asarray(columns)), wanted, rtol=1e-5)
    settings = WISESettings(quiet=1.0, loud=6.0, margin=4.0)
    edits, others = rng.uniform(0, 10, 5), rng.uniform(0, 10, 5)
    hinges = [
        max(0, o - 1.0) + max(0, 6.0 - e) + max(0, 4.0 - (e - o))
        for e, o in zip(edits, others, strict=True)
    ]
    arrays = (jnp.asarray(a, jnp.float32) for a in (edits, others))
    np.testing.assert_allclose(margin_loss(*arrays, settings), hinges, rtol=1e-4, atol=1e-5)


def test_wise_makes_its_edits_the_argmax_and_leaves_unrelated_texts_alone(tiny_model):
    model, tokenizer = tiny_model(80)
    params, config = model.params, model.config
    batches = target_rows(LOCATED, tokenizer, batch_size=2)
    unrelated = token_batch(model, tokenizer, TEXTS[:2])
    settings = WISESettings(learning_rate=2e-2, epochs=80, quiet=1.0, loud=4.0, margin=3.0)
    memory = wise(params, config, batches, [unrelated], 1, settings)
    nothing = SideMemory(memory.down, jnp.asarray(jnp.inf))

    def states(tokens, positions, columns, memory):
        return wise_states(params, config, tokens, positions, columns, memory, 1)

    for rows in batches:
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        assert not says(config, states(*place, nothing), params, rows)[0]
        assert says(config, states(*place, memory), params, rows).all()
    tokens, positions = unrelated
    place = tokens, positions, jnp.argmax(positions, axis=1)
    np.testing.assert_array_equal(states(*place, memory), states(*place, nothing))
    np.testing.assert_allclose(
        states(*place, nothing), running(params, config, *unrelated)[0], atol=1e-5
    )


def test_scores_are_the_protocols(tiny_model):
    model, tokenizer = tiny_model(80)
    records = [
        EditRecord(
            "What is the capital of Norland?",
            "Ada Quill",
            rephrase="Norland has which capital?",
            locality=(Pair("Who wrote The Glass Orchard?", "Sol"), Pair("the cat sat", "on a mat")),
        ),
        EditRecord("Which river runs?", "the Ask", portability=(Pair("the dog ran to", "it"),)),
    ]
    target = Target(model, tokenizer)
    # Edited with one of the two, so that no score is all or nothing.
    batches = target_rows(records[:1], tokenizer, batch_size=1)
    settings = FTLSettings(learning_rate=2e-2, epochs=12, bound=1.0)
    other = ftl(model.params, model.config, batches, 1, settings)
    found = score(target, records, other, states_of(other, model.config))

    def said(params, pair):
        tokens, start = tokenizer.encode_pair(pair.prompt, pair.target)
        states = running(params, model.config, jnp.array([tokens]), jnp.arange(len(tokens))[None])
        best = np.argmax(np.asarray(unembed(params, model.config, states[0][0])), -1)
        return best[start - 1 : -1], np.array(tokens[start:])

    def share(pair, params, against=None):
        best, gold = said(params, pair)
        return float(np.mean(best == (gold if against is None else said(against, pair)[0])))

    local = records[0].locality
    for when, params in (("before", model.params), ("after", other)):
        wanted = {
            "rel": np.mean([share(Pair(r.prompt, r.target), params) for r in records]),
            "gen": share(Pair(records[0].rephrase, records[0].target), params),
            "loc": np.mean([share(pair, params, model.params) for pair in local]),
            "portability": share(records[1].portability[0], params),
        }
        assert {name: found[when][name] for name in wanted} == pytest.approx(wanted)
    assert 0 < found["after"]["rel"] < 1
    assert found["before"]["loc"] == 1.0 > found["after"]["loc"]


def test_the_experiment_edits_a_target_by_every_method(tiny_model, tmp_path):
    model, tokenizer = tiny_model(80)
    experiment = load_experiment(ROOT / "experiments", "baselines")
    values = {"limit": 2, "texts": 3, "prefixes": 1, "ridge": 0.01, "targets": ["tiny"]}
    values |= {"third": "tiny", "bare": {"paraphrase_ratio": 0.0}}
    brief = {"epochs": 1}
    values["methods"] = {
        "full": brief, "lora": brief, "ft-l": brief, "rome": {"steps": 1}, "memit": {"steps": 1},
        "alphaedit": {"steps": 1, "threshold": 1e-5}, "grace": {"steps": 1}, "wise": brief,
    }  # fmt: skip
    layers = {"ft-l": 1, "rome": 0, "memit": [0, 1], "alphaedit": [1], "grace": 0, "wise": 1}
    setup = experiment.setup(**values, layers={"tiny": layers})
    edits = [
        {
            "subject": record.subject, "src": record.prompt, "alt": record.target, "pred": "",
            "rephrase": record.prompt + "?", "answers": ["Sol"], "loc": "nq question: the cat sat",
            "loc_ans": "on the mat", "cond": "",
        }
        for record in LOCATED
    ]  # fmt: skip
    texts = [{"Corpus": "c", "Text": text} for text in (*TEXTS, *TEXTS)]
    (tmp_path / "zsre_eval.json").write_text(json.dumps(edits))
    (tmp_path / "zsre_train.json").write_text(json.dumps(edits[:1]))
    (tmp_path / "zsre_unrelated_nq.json").write_text(json.dumps(TEXTS))
    (tmp_path / "me_ppl.json").write_text(json.dumps(texts))
    lab = Lab(tmp_path, tmp_path, setup)
    lab.target = lambda spec: Target(model, tokenizer)
    cells = experiment.cells(setup)
    twice = [
        f"{method}, {place}" for place in ("tiny", "random weights") for method in setup.methods
    ]
    assert list(cells) == ["once edit", "once edit (prompts alone)", *twice]
    before = jax.tree.map(np.array, model.params)
    results = {
        name: experiment.run(lab, setup, cell)
        for name, cell in cells.items()
        if name.endswith(", tiny")
    }
    jax.tree.map(np.testing.assert_array_equal, before, model.params)
    for name, result in results.items():
        scores = result["scores"][0]
        assert scores["before"]["loc"] == 1.0 and scores["after"]["counts"]["rel"] == 2
        assert (result["preparation"] > 0) == (name.split(",")[0] in ("rome", "memit", "alphaedit"))
    results["ft-l, tiny"] = {**results["ft-l, tiny"], "seconds": 3.0}
    page = experiment.page(setup, json.loads(json.dumps(results)))
    assert len(page.tables[0].rows) == 8 and "not decided" in page.claim
    name = "ft-l, random weights"
    results[name] = experiment.run(lab, setup, cells[name])
    assert results[name]["scores"] == [] and results[name]["seconds"] > 0
    results[name]["seconds"] = 4.0
    # The plug-in's cell: its time is what its record says, whoever edited it.
    lab.plugin = lambda dataset, settings: SimpleNamespace(editing_seconds=2.0)
    lab.ensemble = lambda plugin, targets: None
    lab.evaluate = lambda ensemble, records: {"scores": results["full, tiny"]["scores"]}
    once = experiment.run(lab, setup, cells["once edit"])
    page = experiment.page(setup, json.loads(json.dumps({"once edit": once, **results})))
    times = {row[0]: row[1:] for row in page.tables[1].rows}
    assert times["once edit"] == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert times["ft-l"] == [3.0, 7.0, 1.5, 3.5, 2.13]
    # A rival that is not measured on every target could be the best or the quickest.
    assert times["rome"][1] is None and "not decided" in page.claim
    for method in setup.methods:
        results[f"{method}, random weights"] = results[name]
    whole = experiment.page(setup, json.loads(json.dumps({"once edit": once, **results})))
    assert "not decided" not in whole.claim and "not measured" not in whole.claim
    save_figure(page.figures[0].draw, tmp_path / "time.svg")
    assert "<svg" in (tmp_path / "time.svg").read_text()


def test_an_experiment_without_a_layer_or_of_an_unknown_method_is_refused():
    experiment = load_experiment(ROOT / "experiments", "baselines")
    with pytest.raises(InputError, match="no 'mend'; there are full, lora"):
        experiment.cells(experiment.setup(methods={"mend": {}}))
    with pytest.raises(InputError, match="layers: none for a and rome"):
        experiment.cells(experiment.setup(methods={"rome": {}}, targets=["a"]))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (FTLSettings, {"bound": 0}),
        (GRACESettings, {"radius": -1}),
        (WISESettings, {"share": 0}),
        (ValueSettings, {"steps": 0}),
        (ValueSettings, {"kl_weight": -1}),
        (MEMITSettings, {"moment_weight": 0}),
        (AlphaEditSettings, {"ridge": 0}),
    ],
)
def test_settings_that_cannot_edit_are_refused(kind, wrong):
    with pytest.raises(InputError, match=f"setting {next(iter(wrong))}="):
        kind(**wrong)
