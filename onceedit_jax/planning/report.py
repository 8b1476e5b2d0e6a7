"""A pair of models on a mesh: from their configurations to a table of memory, work and times."""

import json
from pathlib import Path
from typing import NamedTuple

import jax

from onceedit_jax.distributed.mesh import MESH_AXES, parse_mesh
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.planning.hardware import CHIPS, Chip
from onceedit_jax.planning.options import PlanOptions
from onceedit_jax.planning.plan import ModelPlan, plan_model, step_seconds

# Tokens of the answer that times are predicted for, in both models; its end is one more.
ANSWER = 4


class PairPlan(NamedTuple):
    """A plan of both models.

    Attributes:
      models: "plug-in" and "target", each with its plan.
      chip: the devices' published peaks.
      devices: how many there are.
      rows: prompts that are answered at once.
    """

    models: dict[str, ModelPlan]
    chip: Chip
    devices: int
    rows: int


def plan_pair(options: PlanOptions) -> PairPlan:
    """Estimate what a pair of models takes on a mesh, without its weights or the hardware.

    Compiles both models' decoding steps for as many CPU devices. Works only in a process that has
    not used JAX yet.

    Raises:
      InputError: a configuration or mesh that cannot be read, or JAX was used before.
    """
    configs = {
        "plug-in": (read_config(options.plugin), options.dtype),
        "target": (read_config(options.target), options.target_dtype or options.dtype),
    }
    count = device_count(options.mesh)
    simulate(count)
    mesh = parse_mesh(options.mesh)
    assert mesh is not None
    models = {
        role: plan_model(config, mesh, rows=options.rows, context=options.context, dtype=dtype)
        for role, (config, dtype) in configs.items()
    }
    return PairPlan(models, CHIPS[options.chip], count, options.rows)


def table_rows(plan: PairPlan) -> list[tuple[str, tuple[str, ...]]]:
    """The rows of a plan's table: a label, and each model's figure."""
    every = list(plan.models.values())
    rows = [
        ("parameters", tuple(f"{model.parameters / 1e9:.2f} B" for model in every)),
        ("query and key/value heads", tuple("{} / {}".format(*model.heads) for model in every)),
        ("weights", tuple(_gigabytes(model.weights) for model in every)),
        ("keys and values", tuple(_gigabytes(model.cache) for model in every)),
        ("relative table (not for drafts)", tuple(_gigabytes(model.table) for model in every)),
        (
            "temporaries, as compiled for CPU",
            tuple(_gigabytes(model.temporaries) for model in every),
        ),
        ("FLOP a step", tuple(f"{model.costs.flops / 1e9:,.1f} G" for model in every)),
        ("bytes a step", tuple(_gigabytes(model.costs.bytes) for model in every)),
        (
            "exchanged, by a device",
            tuple(
                ", ".join(f"{c.count} {c.kind} ({c.bytes / 1e6:.1f} MB)" for c in model.collectives)
                or "nothing"
                for model in every
            ),
        ),
    ]
    times = tuple(f"{1e3 * step_seconds(model, plan.chip, plan.devices):.2f} ms" for model in every)
    return [*rows, (f"least time of a step, {plan.chip.name}", times)]


def verdict(plan: PairPlan) -> list[str]:
    """Whether both models fit, and how fast they may answer."""
    plugin, target, chip = plan.models["plug-in"], plan.models["target"], plan.chip
    taken = plugin.resident + target.resident
    working = taken + max(plugin.temporaries, target.temporaries)
    fits = "fit" if working < chip.memory else "DO NOT FIT"
    alone, drafting = (step_seconds(model, chip, plan.devices) for model in (target, plugin))
    tokens = plan.rows * (ANSWER + 1)
    checked = (ANSWER + 1) * drafting + alone
    return [
        f"Both with their tables and caches take {_gigabytes(taken)} of each device, "
        f"{_gigabytes(working)} with temporaries: they {fits} into {_gigabytes(chip.memory)}.",
        f"Predicted from published peaks ({chip.source}), nothing of it measured, the latency of "
        f"exchanges left out: {plan.rows / alone:,.0f} tokens/s by the target alone; "
        f"{tokens / checked:,.0f} where drafts of {ANSWER} tokens and their end are agreed with; "
        f"{plan.rows / (alone + drafting):,.0f} where both models step together.",
    ]


def read_config(spec: str) -> ModelConfig:
    """A model's configuration from its config.json alone.

    Raises:
      InputError: no such file, or a model that is not supported.
    """
    path = Path(spec)
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a config.json, a folder that holds "
            "one, or a file of configs/models/"
        ) from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    try:
        return config_from_hf(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def device_count(mesh: str) -> int:
    """How many devices a mesh has, as it is typed; `parse_mesh` checks it."""
    count = 1
    for part in mesh.split(","):
        axis, _, size = part.partition("=")
        if axis.strip() in MESH_AXES and size.strip().isdigit():
            count *= max(1, int(size))
    return count


def simulate(count: int) -> None:
    """Simulate so many devices on the CPU; possible once, before JAX is first used."""
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise InputError(
            f"{count} devices cannot be simulated: this process has used JAX already. Plan in a "
            "new process"
        ) from error


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
