"""Weights of a GGUF file as they were dequantized, kept in the cache folder and mapped again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from onceedit_jax.models import (
    assembly,
    families,
    gguf_models,
    parameters,
    quantization,
    tensors,
    tied_head,
)
from onceedit_jax.models.quantization import Int8
from onceedit_jax.storage import gguf, gguf_parts
from onceedit_jax.storage.converted import Entry, entry
from onceedit_jax.types import Params

# Whatever decides on a number or its place.
_CODE = (
    gguf, gguf_parts, gguf_models, families, parameters, tensors, tied_head, quantization, assembly,
)  # fmt: skip
_LIBRARIES = ("gguf", "numpy", "ml_dtypes")


@dataclass(frozen=True)
class Weights:
    """What a checkpoint holds.

    Attributes:
        hf_config: Values of its config.json, with the true head.
        params: Parameter tree.
        content_hash: SHA-256 (hex) over its files.
    """

    hf_config: dict[str, Any]
    params: Params
    content_hash: str


def place_of(path: Path, dtype: str) -> Entry | None:
    """Where the weights of a GGUF file are kept in some dtype; None where they are not."""
    files = gguf_parts.model_files(path)
    return entry(files, f"weights {dtype}", _CODE, _LIBRARIES, least=gguf_parts.LARGE)


def read_weights(place: Entry, *, verify: bool = True) -> Weights | None:
    """The weights that are kept; JAX on the CPU uses the mapped file itself. None for none."""
    if (found := place.read(verify=verify)) is None:
        return None
    arrays, about = found
    params: Params = {}
    for name, array in arrays.items():
        *nodes, leaf = name.split(".")
        node = params
        for each in nodes:
            node = node.setdefault(each, {})
        node[leaf] = jax.device_put(array, may_alias=True)
    return Weights(about["hf_config"], _with_int8(params), place.noted_hash)


def _with_int8(node: Any) -> Any:
    """A tree with `Int8` in place of dicts of its fields."""
    if not isinstance(node, dict):
        return node
    if node.keys() == {"values", "scale"}:
        return Int8(**node)
    return {name: _with_int8(child) for name, child in node.items()}


def keep_weights(place: Entry, weights: Weights) -> None:
    """Keep weights for the next start, unless their file has changed unseen."""
    if weights.content_hash == place.noted_hash:
        leaves = jax.tree_util.tree_flatten_with_path(weights.params)[0]
        named = [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in leaves]
        arrays = {name: np.asarray(leaf) for name, leaf in named}
        place.keep(arrays, {"hf_config": weights.hf_config})
