"""Which versions, on which machine, produced a result: written beside every figure."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

PACKAGES = (
    "onceedit-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """Package name to version, Python and the machine's architecture included."""
    found = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "machine": platform.machine(), **found}


def machine() -> dict[str, Any]:
    """What seconds were measured on: processor, cores this process may use, devices, load."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text(encoding="utf-8").splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    # Neither is told by every system.
    affinity, load = getattr(os, "sched_getaffinity", None), getattr(os, "getloadavg", None)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "load": load()[0] if load else None,
    }
