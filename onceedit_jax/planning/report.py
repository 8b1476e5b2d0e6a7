"""The `plan` command: configurations in, a table of what a pair takes on a mesh out."""

import json
from pathlib import Path

import jax
from rich.table import Table

from onceedit_jax.cli.workflow import out_console
from onceedit_jax.distributed.mesh import MESH_AXES, parse_mesh
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.planning.hardware import CHIPS, Chip
from onceedit_jax.planning.plan import ModelPlan, plan_model, step_seconds

ANSWER = (
    4  # tokens of the answer that times are predicted for, in both models; its end comes on top
)


def report_plan(
    plugin: str,
    target: str,
    mesh: str,
    *,
    chip: str,
    rows: int,
    context: int,
    dtype: str,
    target_dtype: str | None = None,
) -> None:
    """Compile both models' steps for the mesh and print what they take."""
    models = {
        "plug-in": (read_config(plugin), dtype),
        "target": (read_config(target), target_dtype or dtype),
    }
    count = device_count(mesh)
    simulate(count)
    devices = parse_mesh(mesh)
    assert devices is not None
    plans = {
        role: plan_model(config, devices, rows=rows, context=context, dtype=held)
        for role, (config, held) in models.items()
    }
    known = CHIPS[chip]
    table = Table("a device holds, and a step of all takes", *plans)
    for label, texts in lines(plans, known, count):
        table.add_row(label, *texts)
    out_console.print(table)
    for text in verdict(plans, known, count, rows):
        out_console.print(text)


def lines(
    plans: dict[str, ModelPlan], chip: Chip, devices: int
) -> list[tuple[str, tuple[str, ...]]]:
    """The rows of the table: what is told, and each model's figure."""
    every = list(plans.values())
    found = [
        ("parameters", tuple(f"{plan.parameters / 1e9:.2f} B" for plan in every)),
        ("query and key/value heads", tuple("{} / {}".format(*plan.heads) for plan in every)),
        ("weights", tuple(_gigabytes(plan.weights) for plan in every)),
        ("keys and values", tuple(_gigabytes(plan.cache) for plan in every)),
        ("relative table (not for drafts)", tuple(_gigabytes(plan.table) for plan in every)),
        (
            "temporaries, as compiled for CPU",
            tuple(_gigabytes(plan.temporaries) for plan in every),
        ),
        ("FLOP a step", tuple(f"{plan.costs.flops / 1e9:,.1f} G" for plan in every)),
        ("bytes a step", tuple(_gigabytes(plan.costs.bytes) for plan in every)),
        (
            "exchanged, by a device",
            tuple(
                ", ".join(f"{c.count} {c.kind} ({c.bytes / 1e6:.1f} MB)" for c in plan.collectives)
                or "nothing"
                for plan in every
            ),
        ),
    ]
    times = tuple(f"{1e3 * step_seconds(plan, chip, devices):.2f} ms" for plan in every)
    return [*found, (f"least time of a step, {chip.name}", times)]


def verdict(plans: dict[str, ModelPlan], chip: Chip, devices: int, rows: int) -> list[str]:
    """Whether both fit, and how fast an answer may come."""
    plugin, target = plans["plug-in"], plans["target"]
    taken = plugin.resident + target.resident
    working = taken + max(plugin.temporaries, target.temporaries)
    fits = "fit" if working < chip.memory else "DO NOT FIT"
    alone, drafting = (step_seconds(plan, chip, devices) for plan in (target, plugin))
    tokens = rows * (ANSWER + 1)
    checked = (ANSWER + 1) * drafting + alone
    return [
        f"Both with their tables and caches take {_gigabytes(taken)} of each device, "
        f"{_gigabytes(working)} with temporaries: they {fits} into {_gigabytes(chip.memory)}.",
        f"Predicted from published peaks ({chip.source}), nothing of it measured, the latency of "
        f"exchanges left out: {rows / alone:,.0f} tokens/s by the target alone; "
        f"{tokens / checked:,.0f} where drafts of {ANSWER} tokens and their end are agreed with; "
        f"{rows / (alone + drafting):,.0f} where both models step together.",
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
    """How many devices a typed mesh speaks of; what is wrong with it is told by `parse_mesh`."""
    count = 1
    for part in mesh.split(","):
        axis, _, size = part.partition("=")
        if axis.strip() in MESH_AXES and size.strip().isdigit():
            count *= max(1, int(size))
    return count


def simulate(count: int) -> None:
    """Let the CPU stand for so many devices; possible once, before JAX is first used."""
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise InputError(
            f"{count} devices cannot be simulated in a process that has used JAX already: plan in "
            "a process of its own"
        ) from error


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
