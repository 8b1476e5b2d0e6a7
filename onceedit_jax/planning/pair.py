"""Plan a pair: memory, compute and speed of a plug-in and its target on a mesh of some chip."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax

from onceedit_jax.distributed.mesh import MESH_AXES, parse_mesh
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.planning.hardware import CHIPS, Chip
from onceedit_jax.planning.options import PlanOptions
from onceedit_jax.planning.plan import ModelPlan, expected_seconds, plan_model, reading_seconds
from onceedit_jax.storage.bounded import read_json

DRAFT_TOKENS = 4
"""Tokens of the answers that speeds are predicted for, in both models; the end comes on top."""


@dataclass(frozen=True)
class PairPlan:
    """A plug-in and its target on a mesh.

    Attributes:
      plugin: plan of the plug-in.
      target: plan of the target.
      chip: the mesh's kind of device.
      devices: the mesh's number of devices.
      rows: rows that are answered at once.
    """

    plugin: ModelPlan
    target: ModelPlan
    chip: Chip
    devices: int
    rows: int

    @property
    def resident(self) -> int:
        """Bytes of both models on a device between steps."""
        return self.plugin.resident + self.target.resident

    @property
    def peak(self) -> int:
        """Bytes on a device during a step of the model with more temporaries."""
        return self.resident + max(self.plugin.temporaries, self.target.temporaries)

    @property
    def fits(self) -> bool:
        """Whether the peak fits into the memory of the chip."""
        return self.peak < self.chip.memory

    @property
    def plugin_seconds(self) -> float:
        """The expected time of one decoding step of the plug-in."""
        return expected_seconds(self.plugin, self.chip, self.devices)

    @property
    def target_seconds(self) -> float:
        """The expected time of one decoding step of the target."""
        return expected_seconds(self.target, self.chip, self.devices)

    @property
    def target_alone_speed(self) -> float:
        """Tokens per second of the target without a plug-in."""
        return self.rows / self.target_seconds

    @property
    def drafted_speed(self) -> float:
        """Tokens per second if drafts of `DRAFT_TOKENS` tokens and their end are accepted.

        For each draft the plug-in reads the prompt, which gives a first token; the target has read
        it before.
        """
        drafting = reading_seconds(self.plugin, self.chip, self.devices)
        drafting += DRAFT_TOKENS * self.plugin_seconds
        return self.rows * (DRAFT_TOKENS + 1) / (drafting + self.target_seconds)

    @property
    def joint_speed(self) -> float:
        """Tokens per second if both models compute every token."""
        return self.rows / (self.target_seconds + self.plugin_seconds)


def plan_pair(options: PlanOptions) -> PairPlan:
    """Estimate memory, compute and speed for a pair without its weights or hardware.

    CPU devices are simulated in place of the mesh's, so this must run before JAX is first used.

    Raises:
      InputError: a file that cannot be read, an unsupported model, an invalid mesh, or a process
        that has used JAX already.
    """
    plugin, target = read_config(options.plugin), read_config(options.target)
    devices = device_count(options.mesh)
    simulate_devices(devices)
    mesh = parse_mesh(options.mesh)
    assert mesh is not None
    plan = partial(plan_model, mesh=mesh, rows=options.rows, context=options.context)
    return PairPlan(
        plugin=plan(plugin, dtype=options.dtype),
        target=plan(target, dtype=options.target_dtype or options.dtype),
        chip=CHIPS[options.chip],
        devices=devices,
        rows=options.rows,
    )


def read_config(path: str | Path) -> ModelConfig:
    """A model's configuration from its config.json alone.

    Args:
      path: the file, or a folder that contains it.

    Raises:
      InputError: no such file, or a model that is not supported.
    """
    path = Path(path)
    path = path / "config.json" if path.is_dir() else path
    try:
        values = read_json(path)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; give a config.json, a folder with one, or a file of "
            "configs/models/"
        ) from error
    try:
        return config_from_hf(values)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('config.json: ')}") from error


def device_count(mesh: str) -> int:
    """Number of devices of a mesh in text form; `parse_mesh` reports the errors in it."""
    count = 1
    for part in mesh.split(","):
        axis, _, size = part.partition("=")
        if axis.strip() in MESH_AXES and size.strip().isdigit():
            count *= max(1, int(size))
    return count


def simulate_devices(count: int) -> None:
    """Let the CPU act as `count` devices; possible only before JAX is first used.

    Raises:
      InputError: this process has used JAX already.
    """
    jax.config.update("jax_platforms", "cpu")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise InputError(
            f"cannot simulate {count} devices, because this process has used JAX already; make the "
            "plan in a new process"
        ) from error
