"""Trains a plug-in on its edits: one jitted step, resumable to the same result (section 3.1)."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from onceedit_jax.distributed.hosts import first_decides
from onceedit_jax.distributed.mesh import (
    batch_multiple,
    constrain,
    mesh_of,
    platform_of,
    replicate,
    shard_batch,
    using,
)
from onceedit_jax.distributed.processor import multiplies_bfloat16
from onceedit_jax.editing.batches import (
    Batch,
    TrainingRow,
    epoch_batches,
)
from onceedit_jax.editing.checkpoint import HISTORY, Checkpoint, History
from onceedit_jax.editing.loss import edit_loss
from onceedit_jax.editing.lower_states import LowerStates
from onceedit_jax.editing.optimizer import make_optimizer
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainable import Trainable, trainable_of
from onceedit_jax.errors import RunError
from onceedit_jax.gates.weight_token import gate_logit, init_gate
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.models.dtypes import ComputeDtype, default_compute_dtype
from onceedit_jax.models.layout import (
    group_size,
    layer_groups,
    stack_layers,
    unstack_upper,
    upper_part,
)
from onceedit_jax.models.products import as_operands
from onceedit_jax.models.sharding import divided
from onceedit_jax.types import Params

UNROLLED = 16  # layers that are trained without a scan; more take long to compile


class Progress(NamedTuple):
    """A report after a training step. The last three are means over the epoch so far."""

    epoch: int
    step: int
    steps: int
    loss: float
    reliability: float
    gate_accuracy: float


class Trained(NamedTuple):
    """What training gives.

    Attributes:
      params: parameters in canonical form.
      gate: the gate.
      history: one entry per epoch.
      adapters: factors of the adapter that was trained, beside unchanged parameters; None if the
        parameters were trained.
    """

    params: Params
    gate: Params
    history: History
    adapters: Params | None = None


class StepOutcome(NamedTuple):
    """Sums over a batch, as float32 scalars, so that an epoch's means need no second pass."""

    loss: Float[Array, ""]
    edits_right: Float[Array, ""]
    edits: Float[Array, ""]
    gates_right: Float[Array, ""]
    rows: Float[Array, ""]


class _Program(NamedTuple):
    init: Callable[[Params], Any]  # the optimizer's state before the first step
    step: Callable[..., tuple[Any, StepOutcome]]  # see `_step`; its state is consumed


def batch_loss(
    params: Params,
    gate: Params,
    batch: Batch,
    config: ModelConfig,
    gate_weight: float,
    below: int = 0,
) -> tuple[Float[Array, ""], StepOutcome]:
    """The objective on one batch; the vocabulary head runs at the target positions only.

    The first `below` layers do not run: the batch has the stream after them.
    """
    params, config = divided(*upper_part(params, config, below))
    hidden, _ = hidden_states(
        params,
        config,
        batch.tokens,
        batch.positions,
        segments=batch.segments,
        stream=batch.stream,
    )
    places = batch.lines[batch.target_rows], batch.target_columns
    # Devices share these as they share rows: the head is a third of the work.
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
    wrong = (most_likely(jax.lax.stop_gradient(logits)) != batch.targets) * batch.target_mask
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
    trainable: Trainable | None = None,
    gate: Params | None = None,
    pools: Sequence[Sequence[TrainingRow]] = (),
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> Trained:
    """Train a model on edit rows and on rows for its gate.

    Args:
      params: the base model's parameters; they are not changed. If they lie over several devices,
        these share the work.
      config: the model's configuration; `settings` say what products are computed in.
      rows: training rows, see `onceedit_jax.editing.batches`.
      settings: every choice of the editing stage.
      trainable: which parameters are trained (default: by `settings.method`).
      gate: the gate to continue from (default: an untrained one).
      pools: further rows; each epoch draws one of each pool.
      checkpoint: where to save the state, and whether to continue from it. A resumed run ends with
        the same result as an uninterrupted one.
      on_step: called after every step.

    Raises:
      RunError: the loss or its gradient stopped being finite.
      InputError: the checkpoint belongs to another run.
    """
    trainable = trainable or trainable_of(settings)
    parts = trainable.split(params, jax.random.key(settings.seed))
    edits = sum(row.target_start < len(row.tokens) for row in rows)
    settings = settings.resolved(edits, apart=trainable.below is not None)
    dtype = settings.training_dtype or _usual_dtype(params, trainable)
    config = config.with_compute_dtype(dtype)
    assert settings.batch_size is not None and settings.epochs is not None
    steps, epochs = -(-(len(rows) + len(pools)) // settings.batch_size), settings.epochs
    below = trainable.below(params) if trainable.below else 0
    # What the step does not read must not make it another program.
    program = _program(config, replace(settings, epochs=None, seed=0), trainable, below)
    mesh, history = mesh_of(params), History()
    lower, frozen = None, parts.frozen
    if below:
        lower = LowerStates(params, config, below, rows, pools, settings)
        frozen = _for_steps(frozen, below, dtype)
    state = _fresh_state(parts.trainable, gate or init_gate(config.hidden_size), program, mesh)
    if checkpoint is not None:
        state, history = checkpoint.restore(state, mesh)
    saved_at = time.monotonic()
    for epoch in range(len(history), epochs):
        if _learnt(history, settings.early_stop):
            break
        begun = time.monotonic()
        batches = epoch_batches(
            rows,
            settings,
            epoch,
            pools=pools,
            multiple=batch_multiple(mesh),
            even=lower.of(epoch) if lower else None,
        )
        run = partial(program.step, frozen=frozen, total_steps=np.array(steps * epochs, np.float32))
        state, means = _epoch(run, state, batches, mesh, epoch, steps, epochs, settings, on_step)
        history.append(dict(zip(HISTORY, (*means, time.monotonic() - begun), strict=True)))
        due = checkpoint is not None and time.monotonic() - saved_at >= checkpoint.seconds
        if checkpoint is not None and first_decides(mesh.is_multi_process, due):
            checkpoint.save(state, history)
            saved_at = time.monotonic()
    trained = state["trainable"]
    joined = trainable.join(trained["model"], parts.frozen)
    if adapters := joined.get("adapters"):
        return Trained(params, trained["gate"], history, adapters)
    return Trained(stack_layers(joined), trained["gate"], history)


@lru_cache(maxsize=4)
def _program(
    config: ModelConfig, settings: EditSettings, trainable: Trainable, below: int
) -> _Program:
    """The optimizer's first state and the compiled step; runs with equal arguments share them."""
    step = partial(_step, config=config, settings=settings, trainable=trainable, below=below)
    first_state = make_optimizer(settings, np.array(1.0, np.float32)).init  # of any schedule
    return _Program(jax.jit(first_state), jax.jit(step, donate_argnames="state"))


def _usual_dtype(params: Params, trainable: Trainable) -> ComputeDtype:
    """The type of operands where none is asked for.

    On a CPU bfloat16 pays for an adapter: its weights are converted once and not at every step.
    """
    short = trainable.below is not None and multiplies_bfloat16()
    return default_compute_dtype(platform_of(params), training=True, short_products=short)


def _for_steps(frozen: Params, below: int, dtype: str) -> Params:
    """What training leaves as it is, made ready for many steps: the same results, faster.

    A scan over a few layers costs a step on a CPU far more than it saves in compilation: it copies
    each layer's weights, and keeps what the backward pass needs in one array for all layers.
    """
    frozen = as_operands(frozen, dtype)
    layers = sum(map(group_size, layer_groups(frozen["layers"]))) - below
    if platform_of(frozen) != "cpu" or mesh_of(frozen).size > 1 or layers > UNROLLED:
        return frozen
    return unstack_upper(frozen, below)


def _fresh_state(model: Params, gate: Params, program: _Program, mesh: Mesh) -> Any:
    """What the optimizer changes, and its own state, before the first step."""
    # The step consumes its state, and the caller's base model must stay: train a copy.
    trainable = jax.tree.map(jnp.copy, {"model": model, "gate": gate})
    if mesh.size > 1:
        trainable["gate"] = replicate(mesh, trainable["gate"])
    with using(mesh):
        return {"trainable": trainable, "optimizer": program.init(trainable)}


def _epoch(
    run: Callable[..., tuple[Any, StepOutcome]],
    state: Any,
    batches: Iterable[Batch],
    mesh: Mesh,
    epoch: int,
    steps: int,
    epochs: int,
    settings: EditSettings,
    on_step: Callable[[Progress], None],
) -> tuple[Any, tuple[float, float, float]]:
    """One pass over the rows: the new state; and means of loss, reliability and gate accuracy."""
    sums = np.zeros(len(StepOutcome._fields))
    done, coming = 0, iter(batches)
    batch = next(coming, None)
    while batch is not None:
        with using(mesh):
            state, outcome = run(state, batch=_shared(mesh, batch))
        batch = next(coming, None)  # made while the devices compute
        done += 1
        values = np.array(jax.device_get(outcome))
        if not np.isfinite(values[0]):
            raise RunError(
                f"the loss or its gradient became {values[0]} in epoch {epoch + 1}, "
                f"step {done}: lower learning_rate (now {settings.learning_rate}) or set "
                "clip_norm; the last checkpoint is untouched"
            )
        sums += values
        on_step(
            Progress(
                epoch=epoch + 1,
                step=epoch * steps + done,
                steps=steps * epochs,
                loss=sums[0] / done,
                reliability=_share(sums[1], sums[2]),
                gate_accuracy=_share(sums[3], sums[4]),
            )
        )
    return state, (sums[0] / steps, _share(sums[1], sums[2]), _share(sums[3], sums[4]))


def _step(
    state: Any,
    frozen: Params,
    batch: Batch,
    total_steps: Float[Array, ""],
    *,
    config: ModelConfig,
    settings: EditSettings,
    trainable: Trainable,
    below: int,
) -> tuple[Any, StepOutcome]:
    def objective(trained: Params) -> tuple[jax.Array, StepOutcome]:
        params = trainable.join(trained["model"], frozen)
        return batch_loss(params, trained["gate"], batch, config, settings.gate_weight, below)

    gradients, outcome = jax.grad(objective, has_aux=True)(state["trainable"])
    optimizer = make_optimizer(settings, total_steps)
    updates, optimizer_state = optimizer.update(gradients, state["optimizer"], state["trainable"])
    trained = optax.apply_updates(state["trainable"], updates)
    # A finite loss can have a gradient that is not: the new parameters are lost all the same.
    norm = optax.global_norm(gradients)
    outcome = outcome._replace(loss=jnp.where(jnp.isfinite(norm), outcome.loss, norm))
    return {"trainable": trained, "optimizer": optimizer_state}, outcome


def _shared(mesh: Mesh, batch: Batch) -> Batch:
    """A batch whose lines the devices share; the lists over all its rows are small."""
    if mesh.size == 1:
        return batch
    shared = ("tokens", "positions", "segments", "stream")
    lines = {name: getattr(batch, name) for name in shared}
    return batch._replace(**shard_batch(mesh, lines))


def _share(right: float, count: float) -> float:
    """The share that is right; 1 if there is nothing to get right."""
    return float(right / count) if count else 1.0


def _learnt(history: History, patience: int) -> bool:
    """Whether the last `patience` epochs got every edit and every gate row right."""
    last = history[-patience:] if patience else []
    return len(last) == patience > 0 and all(
        entry["reliability"] == 1 and entry["gate_accuracy"] == 1 for entry in last
    )
