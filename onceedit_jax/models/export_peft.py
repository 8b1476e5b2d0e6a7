"""Write an adapter as a folder that Hugging Face's PEFT loads on top of its base model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import checkpoint_tensors
from onceedit_jax.storage.peft_files import PEFT_CONFIG, PEFT_WEIGHTS
from onceedit_jax.types import HostArray, Params


def export_peft(folder: Path, adapter: Params, config: ModelConfig, base: str) -> Path:
    """Write `adapter_model.safetensors` and `adapter_config.json`.

    Args:
        folder: An existing folder.
        adapter: Factors of one adapter, of one row, see `models.adapters`.
        config: The model's.
        base: Hub id or folder of the base model, which PEFT looks up; "" for none.

    Returns:
        The folder.

    Raises:
        InputError: A family whose checkpoints hold several matrices in one tensor, or transposed.
    """
    count = jax.tree.leaves(adapter)[0].shape[1]
    first, rank = config.num_layers - count, _rank(adapter)
    tensors: dict[str, HostArray] = {}
    modules = set[str]()
    for tensor in checkpoint_tensors(config).values():
        found = [_factors(adapter, leaf.path) for leaf in tensor.leaves]
        layer = tensor.leaves[0].layer
        if found[0] is None or layer is None or layer < first:
            continue
        if len(found) > 1 or tensor.stored != "linear":
            raise InputError(
                f"{tensor.name}: a {config.family} checkpoint does not hold each matrix as a "
                "tensor of its own, as PEFT needs it; export the merged model instead"
            )
        module = tensor.name.removesuffix(".weight")
        modules.add(module.rpartition(".")[2])
        a, b = (to_host(found[0][side])[0, layer - first] for side in ("a", "b"))
        size = b.shape[0]
        # PEFT has one rank for all matrices: rows and columns of zeros add nothing.
        wide = ((0, rank - size), (0, 0))
        down = np.pad(a.reshape(-1, size).T, wide)
        up = np.pad(b.reshape(size, -1), wide).T
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up)
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(modules),
        "layers_to_transform": list(range(first, config.num_layers)),
    }
    save_file(tensors, folder / PEFT_WEIGHTS, metadata={"format": "pt"})
    (folder / PEFT_CONFIG).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return folder


def _factors(adapter: Params, path: tuple[str, ...]) -> Any:
    """The factors of a matrix; None for one that has none."""
    if len(path) != 3 or path[0] != "layers":
        return None
    return adapter.get(path[1], {}).get(path[2])


def _rank(adapter: Params) -> int:
    """The largest rank of a matrix's factors."""
    sizes = [part["a"].shape[-1] for factors in adapter.values() for part in factors.values()]
    return int(max(sizes))
