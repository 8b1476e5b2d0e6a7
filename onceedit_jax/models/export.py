"""Write a model as a Hugging Face folder for `transformers`, by the table of families."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import FAMILIES, checkpoint_tensors, config_from_hf
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.types import HostArray, Params

_DTYPES = ("float32", "bfloat16", "float16")
_WEIGHTS, _CONFIG, _INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"


def export_hf(
    folder: str | Path,
    params: Params,
    config: ModelConfig,
    hf_config: Mapping[str, Any],
    *,
    dtype: str = "float32",
) -> Path:
    """Write `model.safetensors` and `config.json`; other files of the folder are not changed.

    Both files are first written under temporary names, so a failure leaves the folder as it was.

    Args:
        folder: Created if it does not exist.
        params: Parameter tree, its layers in any layout.
        config: The model's.
        hf_config: Values of the config.json that `config` was read from (`LoadedModel.hf_config`).
        dtype: Of the written weights: float32, bfloat16 or float16.

    Returns:
        The folder.

    Raises:
        InputError: `hf_config` describes another model, the parameters have other shapes, or the
            folder holds a sharded checkpoint, which some readers would use instead.
    """
    folder = Path(folder)
    if dtype not in _DTYPES:
        raise InputError(f"dtype is {dtype!r}; use one of {', '.join(_DTYPES)}")
    if config_from_hf(hf_config).with_num_tokens(config.num_tokens) != config.with_compute_dtype(
        "float32"
    ):
        raise InputError(
            f"{folder}: hf_config describes another model than config; expected the values of the "
            "config.json that the model was loaded from"
        )
    if (folder / _INDEX).exists():
        raise InputError(
            f"{folder}: holds {_INDEX}, a sharded checkpoint that some readers would use instead "
            "of the new weights; choose an empty folder"
        )
    tensors = checkpoint_arrays(params, config, jnp.dtype(dtype))
    # Older versions of transformers read only `torch_dtype`, newer ones read both.
    values = {key: value for key, value in spelt_for_both(hf_config).items() if key != "dtype"}
    values |= {"architectures": [FAMILIES[config.family].auto_class], "torch_dtype": dtype}

    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f"{name}.tmp" for name in (_WEIGHTS, _CONFIG)}
    try:
        # transformers refuses files without the name of a framework.
        save_file(tensors, temporary[_WEIGHTS], metadata={"format": "pt"})
        temporary[_CONFIG].write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)
    return folder


def spelt_for_both(hf_config: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the rope as transformers 4 spells it, which 5 reads too.

    transformers 4 leaves out `rope_parameters` in silence, and rotates by its own base.
    """
    values = {key: value for key, value in hf_config.items() if key != "rope_parameters"}
    ropes = dict(hf_config.get("rope_parameters") or {})
    nearby = ropes.pop("sliding_attention", None) or {}
    rope = {**(ropes.pop("full_attention", None) or {}), **ropes}
    for key in ("rope_theta", "partial_rotary_factor"):
        if (number := rope.pop(key, None)) is not None:
            values[key] = number
    if "rope_theta" in nearby:
        values["rope_local_base_freq"] = nearby["rope_theta"]
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        values["rope_scaling"] = rope
    return values


def checkpoint_arrays(
    params: Params, config: ModelConfig, dtype: np.dtype[Any]
) -> dict[str, HostArray]:
    """The model's tensors with the names and the memory layout of `transformers`.

    Raises:
        InputError: The parameters are not those of `config`.
    """
    leaves = {
        tuple(key.key for key in path): to_host(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(stack_layers(params))[0]
    }
    expected = checkpoint_tensors(config)
    paths = {leaf.path for tensor in expected.values() for leaf in tensor.leaves}
    if differing := sorted(".".join(path) for path in paths ^ leaves.keys()):
        raise InputError(
            f"parameters and config disagree on {', '.join(differing[:3])}; expected exactly the "
            f"leaves of a {config.family} model: pass the config that the parameters were loaded "
            "with"
        )
    arrays = {}
    for name, tensor in expected.items():
        values = []
        for leaf in tensor.leaves:
            value = leaves[leaf.path]
            value = value if leaf.layer is None else value[leaf.layer]
            if value.shape != leaf.shape:
                raise InputError(
                    f"parameter {'.'.join(leaf.path)} has shape {list(value.shape)}; expected "
                    f"{list(leaf.shape)}: pass the config that the parameters were loaded with"
                )
            values.append(value.astype(dtype, copy=False))
        arrays[name] = tensor.join(values)
    return arrays
