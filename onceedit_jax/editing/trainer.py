"""The training loop of the editing stage: one jitted step, resumable to the same result."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from onceedit_jax.distributed.hosts import first_decides, is_first
from onceedit_jax.distributed.mesh import (
    batch_multiple,
    constrain,
    mesh_of,
    replicate,
    shard_batch,
    using,
)
from onceedit_jax.editing.batches import Batch, TrainingRow, epoch_batches
from onceedit_jax.editing.loss import edit_loss
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainable import merged, partition
from onceedit_jax.errors import InputError, RunError
from onceedit_jax.gates.weight_token import gate_logit, init_gate
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, stack_layers, unembed
from onceedit_jax.models.sharding import divided
from onceedit_jax.storage.checkpoints import has_tree, load_tree, save_tree

Params = dict[str, Any]


HISTORY = ("loss", "reliability", "gate_accuracy", "seconds")


class Progress(NamedTuple):
    """What a step reports: means over the epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    reliability: float
    gate_accuracy: float


class Trained(NamedTuple):
    """The edited parameters (canonical form), the gate, and one entry of history per epoch."""

    params: Params
    gate: Params
    history: list[dict[str, float]]


class StepOutcome(NamedTuple):
    """Sums over a batch, as float32 scalars, so that an epoch's means need no second pass."""

    loss: jax.Array
    edits_right: jax.Array
    edits: jax.Array
    gates_right: jax.Array
    rows: jax.Array


def make_optimizer(settings: EditSettings, total_steps: int) -> optax.GradientTransformation:
    """Clipping, then the optimizer under its schedule; [WEIGHT]'s row at its own rate."""
    warmup = min(settings.warmup_steps, total_steps)
    after = max(1, total_steps - warmup)

    def schedule(peak: float) -> optax.Schedule:
        decay = {
            "constant": optax.constant_schedule(peak),
            "linear": optax.linear_schedule(peak, 0.0, after),
            "cosine": optax.cosine_decay_schedule(peak, after),
        }[settings.schedule]
        if not warmup:
            return decay
        return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), decay], [warmup])

    make = getattr(optax, settings.optimizer)
    decays = settings.optimizer in ("adamw", "lion")
    options = {"weight_decay": settings.weight_decay} if decays else {}
    optimizer = optax.partition(
        {
            "model": make(schedule(settings.learning_rate), **options),
            "gate": make(schedule(settings.gate_learning_rate), **options),
        },
        {"model": "model", "gate": "gate"},
    )
    clip = optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else optax.identity()
    return optax.chain(clip, optimizer)


def batch_loss(
    params: Params, gate: Params, batch: Batch, config: ModelConfig, gate_weight: float
) -> tuple[jax.Array, StepOutcome]:
    """The objective on one batch; the vocabulary head runs at the target positions only."""
    params, config = divided(params, config)
    hidden, _ = hidden_states(
        params, config, batch.tokens, batch.positions, segments=batch.segments
    )
    places = batch.lines[batch.target_rows], batch.target_columns
    # Shared out as rows are: the head is a third of the work.
    logits = unembed(params, config, constrain(hidden[places], "batch", None))
    gates = gate_logit(gate, hidden[batch.lines, batch.gate_columns])
    loss = edit_loss(
        logits,
        batch.targets,
        batch.target_mask,
        gates,
        batch.gate_labels,
        batch.gate_mask,
        gate_weight=gate_weight,
    )
    wrong = (jnp.argmax(logits, -1) != batch.targets) * batch.target_mask
    none = jnp.zeros(batch.lines.shape[0])
    mistakes = none.at[batch.target_rows].add(wrong)
    tokens = none.at[batch.target_rows].add(batch.target_mask)
    is_edit = (tokens > 0).astype(jnp.float32)
    return loss.total, StepOutcome(
        loss=loss.total,
        edits_right=jnp.sum((mistakes == 0) * is_edit),
        edits=jnp.sum(is_edit),
        gates_right=jnp.sum(((gates > 0) == (batch.gate_labels > 0)) * batch.gate_mask),
        rows=jnp.sum(batch.gate_mask),
    )


def train(
    params: Params,
    config: ModelConfig,
    rows: Sequence[TrainingRow],
    settings: EditSettings,
    *,
    gate: Params | None = None,
    pools: Sequence[Sequence[TrainingRow]] = (),
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
    run_fingerprint: str = "",
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train a plug-in on edit rows and unrelated rows.

    Args:
      params: the base model's parameters; kept as they are. The devices that they lie over share
        the work.
      config: its configuration.
      rows: training rows, see `onceedit_jax.editing.batches`.
      settings: every choice of the editing stage.
      gate: the gate to go on from (default: one that has learnt nothing).
      pools: further rows, of each pool one, drawn anew every epoch.
      checkpoint: folder that receives parameters, optimizer state and position after an epoch.
      checkpoint_seconds: least time between two checkpoints; 0 saves after every epoch.
      run_fingerprint: hash of edits, unrelated rows, settings and base model, kept with the
        checkpoint so that another run never continues this one.
      resume: continue from `checkpoint` if it holds one; the result equals an uninterrupted run.
      on_step: called after every step.

    Raises:
      RunError: if the loss or its gradient stops being finite.
      InputError: if the checkpoint belongs to another run.
    """
    parts = partition(params, settings, jax.random.key(settings.seed))
    steps_per_epoch = -(-(len(rows) + len(pools)) // settings.batch_size)
    total_steps = steps_per_epoch * settings.epochs
    optimizer = make_optimizer(settings, total_steps)
    # Donated buffers are consumed, and the caller keeps the base model: train a copy.
    fresh = {"model": parts.trainable, "gate": gate or init_gate(config.hidden_size)}
    trainable = jax.tree.map(jnp.copy, fresh)
    mesh = mesh_of(params)
    if mesh.size > 1:
        trainable["gate"] = replicate(mesh, trainable["gate"])
    with using(mesh):
        state = {"trainable": trainable, "optimizer": optimizer.init(trainable)}
    history: list[dict[str, float]] = []

    together = mesh.is_multi_process
    # Only the first host may put back what a kill has left under another name.
    there = resume and checkpoint is not None and is_first(together) and has_tree(checkpoint)
    if first_decides(together, there):
        assert checkpoint is not None
        state, history = _restore(checkpoint, state, run_fingerprint)

    # Compiled for this training alone, and let go with it: another has another number of steps.
    made_for = {"config": config, "settings": settings, "optimizer": optimizer}
    step = jax.jit(partial(_step, **made_for), donate_argnums=0)
    saved_at = time.monotonic()
    for epoch in range(len(history), settings.epochs):
        if _learnt(history, settings.early_stop):
            break
        started = time.monotonic()
        sums = np.zeros(len(StepOutcome._fields))
        batches = epoch_batches(rows, settings, epoch, pools=pools, multiple=batch_multiple(mesh))
        for i, batch in enumerate(batches):
            with using(mesh):
                state, outcome = step(state, parts.frozen, _shared(mesh, batch))
            values = np.array([float(value) for value in outcome])
            if not np.isfinite(values[0]):
                raise RunError(
                    f"the loss or its gradient became {values[0]} in epoch {epoch + 1}, "
                    f"step {i + 1}: lower learning_rate (now {settings.learning_rate}) or set "
                    "clip_norm; the last checkpoint is untouched"
                )
            sums += values
            on_step(
                Progress(
                    epoch=epoch + 1,
                    step=epoch * steps_per_epoch + i + 1,
                    steps=total_steps,
                    loss=sums[0] / (i + 1),
                    reliability=_share(sums[1], sums[2]),
                    gate_accuracy=_share(sums[3], sums[4]),
                )
            )
        entry = (
            sums[0] / steps_per_epoch,
            _share(sums[1], sums[2]),
            _share(sums[3], sums[4]),
            time.monotonic() - started,
        )
        history.append(dict(zip(HISTORY, entry, strict=True)))
        due = time.monotonic() - saved_at >= checkpoint_seconds
        if checkpoint is not None and first_decides(together, due):
            _save(checkpoint, state, history, run_fingerprint)
            saved_at = time.monotonic()
    trained = state["trainable"]
    edited = stack_layers(merged(trained["model"], parts.frozen, settings))
    return Trained(edited, trained["gate"], history)


def _step(
    state: Any,
    frozen: Params,
    batch: Batch,
    *,
    config: ModelConfig,
    settings: EditSettings,
    optimizer: optax.GradientTransformation,
) -> tuple[Any, StepOutcome]:
    def objective(trainable: Params) -> tuple[jax.Array, StepOutcome]:
        params = merged(trainable["model"], frozen, settings)
        return batch_loss(params, trainable["gate"], batch, config, settings.gate_weight)

    gradients, outcome = jax.grad(objective, has_aux=True)(state["trainable"])
    updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["trainable"])
    trainable = optax.apply_updates(state["trainable"], updates)
    # Where the loss is finite and its gradient is not, these parameters are lost all the same.
    norm = optax.global_norm(gradients)
    outcome = outcome._replace(loss=jnp.where(jnp.isfinite(norm), outcome.loss, norm))
    return {"trainable": trainable, "optimizer": optimizer_state}, outcome


def _shared(mesh: Mesh, batch: Batch) -> Batch:
    """A batch whose lines the devices share; the lists over all its rows are small."""
    if mesh.size == 1:
        return batch
    lines = shard_batch(mesh, (batch.tokens, batch.positions, batch.segments))
    return batch._replace(tokens=lines[0], positions=lines[1], segments=lines[2])


def _share(right: float, count: float) -> float:
    """What is right of what was asked; where nothing was, nothing is left to learn."""
    return float(right / count) if count else 1.0


def _learnt(history: list[dict[str, float]], patience: int) -> bool:
    """Whether the last `patience` epochs got every edit and every gate row right."""
    last = history[-patience:] if patience else []
    return len(last) == patience > 0 and all(
        entry["reliability"] == 1 and entry["gate_accuracy"] == 1 for entry in last
    )


def _save(folder: Path, state: Any, history: list[dict[str, float]], fingerprint: str) -> None:
    """One tree holds all of it, so that arrays, position and fingerprint can never disagree."""
    table = np.array([list(entry.values()) for entry in history])
    save_tree(
        folder, {"leaves": jax.tree.leaves(state), "history": table, "fingerprint": fingerprint}
    )


def _restore(folder: Path, state: Any, fingerprint: str) -> tuple[Any, list[dict[str, float]]]:
    leaves, structure = jax.tree.flatten(state)
    another = InputError(
        f"{folder}: this checkpoint belongs to a run with other edits, unrelated rows, "
        "settings or base model; drop --resume to start over, or restore what was changed"
    )

    def lay(found: Any) -> Any:
        # What is trained, or by what, is another run's before its fingerprint can be read.
        if [leaf.shape for leaf in found["leaves"]] != [leaf.shape for leaf in leaves]:
            raise another
        # As they lie now, whatever devices the run that was cut had.
        return {**dict.fromkeys(found), "leaves": [leaf.sharding for leaf in leaves]}

    saved = load_tree(folder, lay)
    if saved["fingerprint"] != fingerprint:
        raise another
    history = [dict(zip(HISTORY, map(float, entry), strict=True)) for entry in saved["history"]]
    return jax.tree.unflatten(structure, saved["leaves"]), history
