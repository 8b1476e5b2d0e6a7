"""Weights that are numbers: NaN and infinity are found where arrays are read, in one pass."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.types import HostArray

_CHUNK = 1 << 18  # values that are looked at together: they stay in the processor's cache
_EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}  # bits that are all set in inf and NaN only


def check_finite(values: HostArray, place: object, name: str) -> None:
    """Refuse an array with a value that is not finite; nothing is copied.

    Args:
        values: contiguous, of any float dtype.
        place: its file, for the message.
        name: its name there.

    Raises:
        InputError: naming the array, the first such value and where it is.
    """
    flat = values.reshape(-1)
    for first in range(0, flat.size, _CHUNK):
        part = flat[first : first + _CHUNK]
        bits = _EXPONENTS.get(part.dtype.name)
        # numpy itself is slow with types of two bytes.
        finite = (part.view(np.uint16) & bits) != bits if bits else np.isfinite(part)
        if not finite.all():
            at = int(np.argmin(finite))
            raise InputError(
                f"{place}: value {first + at} of tensor {name} is {float(part[at])} as "
                f"{part.dtype.name}; expected finite weights: fetch the file again, or choose a "
                "dtype with a wider range"
            )


def check_finite_tree(tree: Any, place: object) -> None:
    """Refuse a tree of arrays with a value that is not finite.

    Args:
        tree: nested dicts and records of arrays; those of whole numbers are left out.
        place: its folder, for the message.

    Raises:
        InputError: naming the array.
    """
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if isinstance(leaf, np.ndarray) or (
            leaf.is_fully_replicated and next(iter(leaf.devices())).platform == "cpu"
        ):
            check_finite(np.ascontiguousarray(leaf), place, name)
        elif not bool(jnp.isfinite(leaf).all()):
            raise InputError(
                f"{place}: tensor {name} holds values that are not finite; expected finite weights"
            )


def same_shapes(found: Mapping[str, Any], expected: Mapping[str, Any], place: object) -> None:
    """Refuse a tree of arrays that is not the one that a configuration describes.

    Raises:
        InputError: naming an array that is missing, unknown or of another shape.
    """
    one, other = (
        {
            jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
        }
        for tree in (found, expected)
    )
    for name in sorted(one.keys() | other.keys()):
        if one.get(name) != other.get(name):
            raise InputError(
                f"{place}: array {name} has shape {one.get(name)}; expected {other.get(name)}, as "
                "its configuration says: the folder is damaged; edit again"
            )
