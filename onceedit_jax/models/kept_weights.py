"""Weights of a GGUF file as they were dequantized, kept in the cache folder and mapped again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.models.assembly import stored_shapes
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.storage.converted import Entry, entry
from onceedit_jax.storage.gguf_parts import large_files
from onceedit_jax.types import HostArray, Params

_LIBRARIES = ("gguf", "numpy", "ml_dtypes")


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
        hf_config: Values of its config.json, with the true head.
        params: Parameter tree.
        content_hash: SHA-256 (hex) over its files.
        warning: What there is to say about its head; None for nothing.
    """

    hf_config: dict[str, Any]
    params: Params
    content_hash: str
    warning: str | None


@dataclass(frozen=True)
class _Leaf:
    """A leaf that is copied to the host when it is asked for, and not held there."""

    leaf: jax.Array
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> HostArray:
        # An array of JAX holds its copy on the host for as long as it lives: here, this is another
        # array of the same buffer. On the CPU there is no copy at all.
        return np.asarray(self.leaf.addressable_data(0), dtype)


def in_memory(dtype: str) -> tuple[np.dtype[Any], bool]:
    """The dtype of the floats of a model that is loaded in `dtype`, and whether it has eight bits.

    With int8 that is bfloat16, and float16 for the embeddings, see `stored_shapes`.
    """
    return jnp.dtype("bfloat16" if dtype == "int8" else dtype), dtype == "int8"


def place_of(path: Path, dtype: str) -> Entry | None:
    """Where the weights of a GGUF file are kept in some dtype; None where they are not.

    Raises:
        InputError: A part of a split model is missing, or a file is damaged.
    """
    # Earlier versions kept other types under the name int8.
    kind = "int8, embeddings in float16" if dtype == "int8" else dtype
    return entry(large_files(path), f"weights {kind}", _LIBRARIES)


def read_weights(place: Entry, dtype: str, *, verify: bool = True) -> Weights | None:
    """The weights that are kept; JAX on the CPU uses the mapped file itself. None for none."""
    return place.read(partial(_weights, dtype, place.noted_hash), verify=verify)


def _weights(
    dtype: str, content_hash: str, arrays: Mapping[str, HostArray], about: Mapping[str, Any]
) -> Weights:
    """Weights of the arrays of an entry.

    Raises:
        InputError: They are not those of the model.
    """
    floats, eight_bits = in_memory(dtype)
    shapes = stored_shapes(config_from_hf(about["hf_config"]), floats, eight_bits=eight_bits)
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in _named(shapes).items()}
    found = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    if found != expected:
        names = sorted(n for n in {*found, *expected} if found.get(n) != expected.get(n))
        raise InputError(f"{names[0]} is {found.get(names[0])}, not {expected.get(names[0])}")
    leaves = [jax.device_put(arrays[name], may_alias=True) for name in expected]
    params = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    return Weights(about["hf_config"], params, content_hash, about["warning"])


def keep_weights(place: Entry, weights: Weights) -> None:
    """Keep weights for the next start, unless their file has changed unseen."""
    if weights.content_hash == place.noted_hash:
        leaves = {
            name: _Leaf(leaf, leaf.shape, leaf.dtype, leaf.nbytes)
            for name, leaf in _named(weights.params).items()
        }
        place.keep(leaves, {"hf_config": weights.hf_config, "warning": weights.warning})


def _named(params: Params) -> dict[str, Any]:
    """The leaves of a tree by their names, in the tree's order."""
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
