"""The type of an array in this host's memory; a module of its own, which imports no JAX."""

from typing import Any

from numpy.typing import NDArray

HostArray = NDArray[Any]
"""An array in the memory of this host."""
