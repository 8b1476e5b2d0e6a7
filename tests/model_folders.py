"""Hugging Face folders of tiny random models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from onceedit_jax.models.families import checkpoint_tensors, config_from_hf

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}
Tensors = dict[str, np.ndarray]


def random_tensors(hf_config: dict[str, Any], dtype: Any = np.float32) -> Tensors:
    rng = np.random.default_rng(0)
    expected = checkpoint_tensors(config_from_hf(hf_config))
    return {
        name: rng.normal(size=tensor.shape, scale=0.3).astype(dtype)
        for name, tensor in expected.items()
    }


def write_folder(
    folder: Path, hf_config: dict[str, Any], tensors: Tensors, *, shards: int = 1
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hf_config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = {name: tensors[name] for name in list(tensors)[shard::shards]}
        index |= dict.fromkeys(part, file)
        save_file(part, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder
