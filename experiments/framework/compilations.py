"""Lets go of compiled programs before Linux refuses another memory mapping."""

from pathlib import Path

import jax

# Each program takes several mappings, and past the 65,530 that a process gets by default the next
# compilation ends in a segmentation fault. Between two looks one piece of work is done.
MOST_MAPPINGS = 30_000


def forget_compilations() -> None:
    """Clear JAX's caches if this process holds many memory mappings; off Linux, never."""
    mappings = Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
