"""Versions of the packages, and the machine: recorded with every result."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from onceedit_jax import __version__

PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "numpy",
)


def versions() -> dict[str, str]:
    """The versions of Python, this library and `PACKAGES`, and the architecture of the machine."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "onceedit-jax": __version__,  # a checkout need not be installed
        **{name: version(name) for name in PACKAGES},
    }


def machine() -> dict[str, Any]:
    """The machine that times are measured on.

    Returns:
      Processor, number of cores that this process may use, JAX devices, and load average.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    # Not every system has these two functions.
    affinity, load = getattr(os, "sched_getaffinity", None), getattr(os, "getloadavg", None)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "devices": [device.device_kind for device in jax.devices()],
        "load": load()[0] if load else None,
    }
