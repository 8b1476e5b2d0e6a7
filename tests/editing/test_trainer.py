"""The trainer: its objective, its batches, what it trains, and runs that were cut."""

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_cases import ADAPTER
from editing_cases import FAST, RECORDS, UNRELATED
from hypothesis import given
from hypothesis import strategies as st
from support import tiny_config

from onceedit_jax.distributed.bucketing import deal, pack
from onceedit_jax.editing import trainer
from onceedit_jax.editing.batches import (
    Even,
    TrainingRow,
    edit_row,
    epoch_batches,
    epoch_groups,
    even_shape,
    gate_row,
    make_batch,
)
from onceedit_jax.editing.checkpoint import Checkpoint
from onceedit_jax.editing.edit import parameter_hash
from onceedit_jax.editing.loss import edit_loss
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainable import trainable_of
from onceedit_jax.editing.trainer import batch_loss, train
from onceedit_jax.errors import InputError, RunError
from onceedit_jax.gates.weight_token import init_gate
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.models.parameters import init_params


def float64_loss(logits, targets, mask, gates, labels, rows, weight):
    """Independent reference: the objective written out in NumPy float64."""
    logits = np.asarray(logits, np.float64)
    total = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    token = total - np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    probability = 1 / (1 + np.exp(-np.asarray(gates, np.float64)))
    row = -(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    generation = (token * mask).sum() / max(mask.sum(), 1)
    return generation + weight * (row * rows).sum() / max(rows.sum(), 1)


@given(st.integers(0, 2**32 - 1), st.floats(0, 2))
def test_the_objective_is_generation_plus_lambda_times_gate(seed, weight):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(6, 7)).astype(np.float32)
    targets = rng.integers(0, 7, 6)
    mask = rng.integers(0, 2, 6)
    gates = rng.normal(size=3).astype(np.float32)
    labels, rows = rng.integers(0, 2, 3), rng.integers(0, 2, 3)
    arrays = map(jnp.asarray, (logits, targets, mask, gates, labels, rows))
    found = edit_loss(*arrays, gate_weight=weight)
    wanted = float64_loss(logits, targets, mask, gates, labels, rows, weight)
    np.testing.assert_allclose(found.total, wanted, rtol=1e-5, atol=1e-6)


def test_the_gate_does_not_move_the_answers_and_answers_do_not_move_the_gate(tiny_model):
    """[WEIGHT] is no token of the softmax: only the body of the model is in both terms."""
    tokenizer = tiny_model()[1]
    config = tiny_config(len(tokenizer.vocabulary), tie_embeddings=False)
    params = init_params(config, jax.random.key(0))
    gate = jax.tree.map(jnp.ones_like, init_gate(config.hidden_size))
    batch = make_batch([edit_row(r, tokenizer, max_tokens=64) for r in RECORDS], 3)

    def loss(params, gate, batch, weight):
        return batch_loss(params, gate, batch, config, weight)[0]

    answers = jax.grad(loss, argnums=(0, 1))(params, gate, batch, 0.0)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(answers[1]))
    assert (answers[0]["head"]["kernel"] != 0).any()
    unasked = batch._replace(target_mask=jnp.zeros_like(batch.target_mask))
    gates = jax.grad(loss, argnums=(0, 1))(params, gate, unasked, 1.0)
    assert (gates[0]["head"]["kernel"] == 0).all()
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gates[1]))


def test_an_edit_row_ends_with_the_end_token_and_reads_the_gate_at_the_prompt(tiny_model):
    tokenizer = tiny_model()[1]
    row = edit_row(RECORDS[0], tokenizer, max_tokens=64)
    assert row.tokens[-1] == tokenizer.end_id
    assert tokenizer.decode(row.tokens[: row.target_start]) == RECORDS[0].prompt
    batch = make_batch([row], 2)
    assert batch.gate_columns[0] == row.target_start - 1
    used = batch.target_mask > 0
    predicted_from = list(range(row.target_start - 1, len(row.tokens) - 1))
    assert batch.target_columns[used].tolist() == predicted_from
    assert batch.targets[used].tolist() == list(row.tokens[row.target_start :])
    assert not batch.target_rows[used].any()
    assert batch.gate_mask.tolist() == [1, 0]


def test_unrelated_rows_train_no_token_and_are_cut(tiny_model):
    tokenizer = tiny_model()[1]
    row = gate_row(UNRELATED[0].prompt, tokenizer, related=False, max_tokens=5)
    batch = make_batch([row], 1)
    assert len(row.tokens) == 5
    assert batch.target_mask.sum() == 0
    assert batch.gate_labels.tolist() == [0]
    assert batch.gate_columns.tolist() == [4]


def test_rows_that_share_a_line_are_read_as_if_each_were_alone(tiny_model):
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    rows += [gate_row(u.prompt, tokenizer, related=False, max_tokens=64) for u in UNRELATED[:3]]
    gate = {"kernel": jax.random.normal(jax.random.key(1), (model.config.hidden_size,))}

    def loss(rows, gate_weight):
        batch = make_batch(rows, len(rows))
        return batch, float(batch_loss(model.params, gate, batch, model.config, gate_weight)[0])

    batch, together = loss(rows, 0.8)
    assert batch.tokens.shape[0] < len(rows) == len(set(batch.segments.ravel().tolist())) - 1
    # Generation is a mean over target tokens, the gate's loss one over rows.
    generation = [loss([row], 0.0)[1] for row in rows]
    gates = [loss([row], 1.0)[1] - alone for row, alone in zip(rows, generation, strict=True)]
    weights = [len(row.tokens) - row.target_start for row in rows]
    wanted = np.average(generation, weights=weights) + 0.8 * np.mean(gates)
    np.testing.assert_allclose(together, wanted, rtol=1e-4)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_packed_rows_never_overlap_and_waste_less_than_half(lengths):
    places = pack(lengths, 40)
    taken = {
        (line, column)
        for (line, first), length in zip(places, lengths, strict=True)
        for column in range(first, first + length)
    }
    assert len(taken) == sum(lengths)
    assert all(first + n <= 40 for (_, first), n in zip(places, lengths, strict=True))
    lines = 1 + max(line for line, _ in places)
    assert lines == 1 or lines * 40 < 2 * sum(lengths) + 40


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 9))
def test_dealt_rows_are_all_there_and_no_part_is_a_row_longer_than_another(lengths, parts):
    dealt = deal(lengths, parts)
    assert sorted(i for part in dealt for i in part) == list(range(len(lengths)))
    totals = [sum(lengths[i] for i in part) for part in dealt]
    assert max(totals) - min(totals) <= max(lengths)
    most = -(-len(lengths) // parts)
    limited = deal(lengths, parts, most=most)
    assert sorted(i for part in limited for i in part) == list(range(len(lengths)))
    assert max(map(len, limited)) <= most


def rows_of(lengths):
    """Training rows of so many tokens, of which the last two are the answer."""
    return [TrainingRow((i + 1,) * n, n - 2, related=True) for i, n in enumerate(lengths.tolist())]


@pytest.mark.parametrize("multiple", [1, 2])
def test_one_shape_serves_every_even_batch_and_little_of_it_is_padding(multiple):
    rows = rows_of(np.random.default_rng(0).integers(3, 60, 50))
    settings = EditSettings(batch_size=8, epochs=5)
    groups = [g for e in range(5) for g in epoch_groups(rows, settings, e, even=True)]
    even = Even(
        {row.tokens: np.full((len(row.tokens), 3), row.tokens[0], np.float32) for row in rows},
        even_shape(groups, multiple=multiple),
    )
    for epoch in range(5):
        batches = list(epoch_batches(rows, settings, epoch, multiple=multiple, even=even))
        assert len(batches) == 7
        for batch in batches:
            assert batch.tokens.shape == even.shape[:2]
            assert batch.targets.shape == (even.shape.targets,)
            assert batch.tokens.shape[0] % multiple == 0
            # Every token has the stream of its own row.
            assert (batch.stream == batch.tokens[..., None]).all()
            assert (batch.segments >= 0).mean() > 0.75
        trained = np.concatenate([b.tokens[b.segments >= 0] for b in batches])
        assert sorted(trained.tolist()) == sorted(t for row in rows for t in row.tokens)


def test_a_row_longer_than_a_line_is_refused():
    with pytest.raises(ValueError, match="41 tokens, more than the 40"):
        pack([3, 41], 40)


def test_an_edit_that_is_too_long_is_refused(tiny_model):
    with pytest.raises(InputError, match="max_tokens=4"):
        edit_row(RECORDS[0], tiny_model()[1], max_tokens=4)


def test_every_row_comes_once_an_epoch_in_an_order_of_the_seed(tiny_model):
    tokenizer = tiny_model()[1]
    rows = [gate_row(u.prompt, tokenizer, related=False, max_tokens=64) for u in UNRELATED]
    settings = EditSettings(batch_size=5)

    def lengths(epoch, seed=0):
        batches = epoch_batches(rows, EditSettings(batch_size=5, seed=seed), epoch)
        return [
            tuple(b.tokens[b.segments == i].tolist())
            for b in batches
            for i, used in enumerate(b.gate_mask)
            if used
        ]

    assert len(lengths(0)) == len(rows) and settings.batch_size == 5
    assert lengths(0) == lengths(0)
    assert lengths(0) != lengths(1)
    assert lengths(0) != lengths(0, seed=1)


@pytest.mark.parametrize("method", ["full", "lora", "last-n-layers"])
def test_an_untrained_partition_is_the_model_itself(tiny_model, method):
    model = tiny_model()[0]
    settings = EditSettings(method=method, last_layers=1, lora_rank=2)
    trainable = trainable_of(settings)
    parts = trainable.split(model.params, jax.random.key(0))
    whole = stack_layers(trainable.join(parts.trainable, parts.frozen))
    assert jax.tree.structure(whole) == jax.tree.structure(model.params)
    assert parameter_hash(whole) == parameter_hash(model.params)


def test_two_fifths_of_the_layers_are_trained_unless_a_number_is_given():
    layers = {"layers": {"norm": np.zeros((30, 4))}}
    for last, trained in ((None, 12), (5, 5), (30, 30)):
        settings = EditSettings(last_layers=last)
        parts = trainable_of(settings).split(layers, jax.random.key(0))
        assert parts.trainable["layers"]["norm"].shape[0] == trained


def test_many_edits_need_fewer_passes_unless_a_number_is_given():
    edits = (1, 10, 100, 500, 10_000)
    assert [EditSettings().resolved(n).epochs for n in edits] == [20, 20, 8, 4, 4]
    assert EditSettings(epochs=3).resolved(10).epochs == 3


def test_what_is_left_open_goes_by_what_is_trained_and_what_is_given_stays():
    adapter, weights = (EditSettings().resolved(10, apart=apart) for apart in (True, False))
    assert adapter.learning_rate > 10 * weights.learning_rate
    assert adapter.batch_size < weights.batch_size
    given = EditSettings(learning_rate=1e-3, batch_size=3, epochs=2)
    assert given.resolved(10, apart=True) == given.resolved(1000, apart=False) == given
    assert EditSettings(method="adapter").resolved(10) == replace(adapter, method="adapter")


def test_last_layers_leave_the_lower_ones_alone(tiny_model):
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    settings = EditSettings(method="last-n-layers", last_layers=1, epochs=2, learning_rate=1e-2)
    trained = train(model.params, model.config, rows, settings)
    before, after = (jax.tree.leaves(p["layers"]) for p in (model.params, trained.params))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(before, after, strict=True))
    assert not all(np.array_equal(a[1], b[1]) for a, b in zip(before, after, strict=True))
    assert np.array_equal(model.params["embed"]["tokens"], trained.params["embed"]["tokens"])


def test_a_loss_that_is_not_finite_stops_the_run(tiny_model):
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    broken = {
        **model.params,
        "final_norm": jax.tree.map(lambda a: a * jnp.nan, model.params["final_norm"]),
    }
    with pytest.raises(RunError, match="learning_rate"):
        train(broken, model.config, rows, EditSettings(epochs=1))


def test_a_gradient_that_is_not_finite_stops_the_run_before_its_parameters_are_kept(
    tiny_model, monkeypatch, tmp_path
):
    def steep(params, gate, *rest):
        loss, outcome = batch_loss(params, gate, *rest)
        return loss + jnp.sqrt(0 * jnp.sum(gate["kernel"])), outcome

    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    monkeypatch.setattr(trainer, "batch_loss", steep)
    checkpoint = Checkpoint(tmp_path / "run", seconds=0.0)
    # Of no other test, which would share the program.
    settings = EditSettings(epochs=1, gate_weight=0.123)
    with pytest.raises(RunError, match="loss or its gradient became nan in epoch 1"):
        train(model.params, model.config, rows, settings, checkpoint=checkpoint)
    assert not (tmp_path / "run").exists()


def test_training_without_the_gate_ends_when_every_edit_is_learnt(tiny_model):
    model, tokenizer = tiny_model()
    rows = [replace(edit_row(r, tokenizer, max_tokens=64), related=None) for r in RECORDS]
    settings = replace(FAST, gate_weight=0.0, early_stop=2)
    history = train(model.params, model.config, rows, settings).history
    assert len(history) < settings.epochs
    assert [epoch["reliability"] for epoch in history[-2:]] == [1.0, 1.0]


def test_settings_that_cannot_train_are_refused():
    with pytest.raises(InputError, match="learning_rate=0"):
        EditSettings(learning_rate=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("method", "last_n_layers"), ("optimizer", "Adam"), ("schedule", "cos")],
)
def test_a_setting_that_is_none_of_its_choices_is_refused(unchecked, name, value):
    with pytest.raises(InputError, match=f"setting {name}={value}: expected one of"):
        EditSettings(**{name: value})


def test_a_checkpoint_of_another_run_is_refused(tiny_model, tmp_path):
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    settings = EditSettings(epochs=1)

    def run(settings, name, resume=True):
        checkpoint = Checkpoint(tmp_path / "run", name, resume, seconds=0.0)
        train(model.params, model.config, rows, settings, checkpoint=checkpoint)

    run(settings, "a", resume=False)
    with pytest.raises(InputError, match="other edits"):
        run(settings, "b")
    changes = ({"method": "lora"}, {"optimizer": "sgd"}, {"method": "full"})
    for change in changes:  # which keep other arrays, or arrays of another shape
        with pytest.raises(InputError, match="other edits"):
            run(replace(settings, last_layers=1, **change), "a")


RUN = """
import sys, jax
sys.path.insert(0, {tests!r})
from support import byte_level_tokenizer, tiny_config
from editing_cases import RECORDS
from onceedit_jax.editing.batches import edit_row
from onceedit_jax.editing.checkpoint import Checkpoint
from onceedit_jax.editing.edit import parameter_hash
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import train
from onceedit_jax.models.parameters import init_params
from pathlib import Path

tokenizer = byte_level_tokenizer(40)
config = tiny_config(len(tokenizer.vocabulary))
rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
trained = train(
    init_params(config, jax.random.key(0)), config, rows, EditSettings(epochs=12, early_stop=0),
    checkpoint=Checkpoint(Path(sys.argv[1]), resume=True, seconds=0),
    on_step=lambda step: print("epoch", step.epoch, flush=True),
)
print("hash", parameter_hash([trained.params, trained.gate]))
"""


def test_a_killed_run_resumes_to_the_same_parameters(tmp_path):
    """SIGKILL in mid-run, at whatever point that falls; the second run ends where one run does."""
    script = tmp_path / "run.py"
    script.write_text(RUN.format(tests=str(Path(__file__).parents[1])))

    def command(folder):
        return [sys.executable, str(script), str(tmp_path / folder)]

    whole = subprocess.run(command("whole"), capture_output=True, text=True, check=True).stdout
    process = subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 6"):
            time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait()
    resumed = subprocess.run(command("killed"), capture_output=True, text=True, check=True).stdout
    assert "epoch 1\n" not in resumed  # it went on, it did not start over
    assert resumed.splitlines()[-1] == whole.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unrelated_ratio", math.inf), ("swapped_ratio", 1e9), ("learning_rate", math.nan),
        ("seed", 2**64), ("epochs", 10**20), ("batch_size", 10**9), ("max_tokens", 2**40),
    ],
)  # fmt: skip
def test_a_number_with_which_the_work_would_not_end_is_refused(name, value):
    with pytest.raises(InputError, match=rf"setting {name}=.*: (expected a finite|must be above)"):
        EditSettings(**{name: value})


@pytest.mark.parametrize("method", ["full", "adapter"])
def test_training_in_bfloat16_learns_edits_and_keeps_what_is_trained_in_float32(tiny_model, method):
    model, tokenizer = tiny_model()
    settings = replace(ADAPTER, method=method, learning_rate=1e-2, training_dtype="bfloat16")
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    trained = train(model.params, model.config, rows, settings)
    assert trained.history[-1]["reliability"] == 1
    leaves = jax.tree.leaves((trained.params, trained.adapters, trained.gate))
    assert {str(leaf.dtype) for leaf in leaves} == {"float32"}
    exact = train(model.params, model.config, rows, replace(settings, training_dtype="float32"))
    assert trained.history[0]["loss"] != exact.history[0]["loss"]
    np.testing.assert_allclose(trained.history[0]["loss"], exact.history[0]["loss"], rtol=0.05)


@pytest.mark.parametrize(
    ("method", "made_for_it", "dtype"),
    [
        ("full", True, "float32"),
        ("adapter", False, "float32"),
        ("adapter", True, "bfloat16"),
    ],
)
def test_training_on_cpu_is_in_bfloat16_for_adapters_where_the_processor_is_made_for_it(
    tiny_model, monkeypatch, method, made_for_it, dtype
):
    monkeypatch.setattr(trainer, "multiplies_bfloat16", lambda: made_for_it)
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    settings = replace(FAST, epochs=2, method=method)
    usual, asked = (
        train(model.params, model.config, rows, replace(settings, training_dtype=chosen))
        for chosen in (None, dtype)
    )
    assert parameter_hash([usual.params, usual.adapters]) == parameter_hash(
        [asked.params, asked.adapters]
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_layers_without_a_scan_train_the_same_adapter(tiny_model, monkeypatch, dtype):
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    settings = replace(ADAPTER, epochs=3, last_layers=2, training_dtype=dtype)
    unrolled = train(model.params, model.config, rows, settings)
    monkeypatch.setattr(trainer, "UNROLLED", 0)
    scanned = train(model.params, model.config, rows, settings)
    losses = [[entry["loss"] for entry in t.history] for t in (unrolled, scanned)]
    np.testing.assert_allclose(*losses, rtol=1e-4 if dtype == "float32" else 2e-2)


def test_a_step_of_an_adapter_is_compiled_once_for_runs_of_any_length(tiny_model, monkeypatch):
    model, tokenizer = tiny_model()
    rows = [edit_row(r, tokenizer, max_tokens=64) for r in RECORDS]
    settings = replace(ADAPTER, batch_size=2, early_stop=0, gate_weight=0.321)
    program, made = trainer._program, []
    monkeypatch.setattr(trainer, "_program", lambda *of: made.append(program(*of)) or made[-1])
    for epochs, seed in ((3, 7), (1, 8)):
        run = replace(settings, epochs=epochs, seed=seed)
        train(model.params, model.config, rows, run)
    assert made[0] is made[1] and made[0].step._cache_size() == 1
