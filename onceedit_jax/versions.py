"""Which versions produced a result; written beside every artifact and every figure."""

import platform
from importlib.metadata import version

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
