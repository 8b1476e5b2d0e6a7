"""What is exported is the model: `transformers` computes with it, and loading it gives it back."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax.errors import InputError
from onceedit_jax.models import export
from onceedit_jax.models.cache import padded_positions
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.layout import split_layers
from onceedit_jax.models.parameters import param_shapes
from onceedit_jax.models.weights import load_model

LLAMA: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {
    "vocab_size": 60,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA = {
    **LLAMA,
    "head_dim": 16,
    "num_hidden_layers": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 4,
    "layer_types": [*["sliding_attention"] * 3, "full_attention"],
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "query_pre_attn_scalar": 16,
    "tie_word_embeddings": True,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **LLAMA},
    "llama3": {"model_type": "llama", **LLAMA, "rope_scaling": LLAMA3},
    "mistral": {"model_type": "mistral", **LLAMA, "head_dim": 8, "sliding_window": 4},
    "qwen2": {"model_type": "qwen2", **LLAMA},
    "qwen3": {"model_type": "qwen3", **LLAMA, "head_dim": 16},
    "gemma3": {"model_type": "gemma3_text", **GEMMA},
    "gpt2": {"model_type": "gpt2", **GPT},
    "gptj": {"model_type": "gptj", **GPT, "rotary_dim": 4, "tie_word_embeddings": False},
}
TOLERANCE = 2e-5  # of the logits' spread


def random_model(name: str) -> tuple[dict[str, Any], Any, Any]:
    config = config_from_hf(FAMILIES[name])
    rng = np.random.default_rng(3)
    # Biases and norms are random too: constants would hide a wrong layout.
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape, scale=0.2), jnp.float32),
        param_shapes(config),
    )
    return FAMILIES[name], config, params


def same(a: Any, b: Any) -> bool:
    return jax.tree.all(
        jax.tree.map(lambda x, y: bool((x == y).all()) and x.dtype == y.dtype, a, b)
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_loading_an_export_gives_the_model_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    hf, config, params = random_model(name)
    loaded = load_model(export_hf(tmp_path / "out", params, config, hf))
    assert loaded.config == config
    assert same(loaded.params, params)


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_gives_equal_logits(tmp_path: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hf, config, params = random_model(name)
    folder = export_hf(tmp_path / "out", params, config, hf)
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    assert (
        type(model).__name__ == json.loads((folder / "config.json").read_text())["architectures"][0]
    )
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (2, 11))
    with torch.no_grad():
        expected = model(torch.tensor(tokens)).logits.numpy()
    positions = padded_positions(jnp.array([11, 11]), 11)
    ours, _ = forward(params, config, jnp.array(tokens), positions)
    assert np.abs(np.asarray(ours) - expected).max() <= TOLERANCE * expected.std()


def test_half_precision_is_written_and_declared(tmp_path: Path) -> None:
    hf, config, params = random_model("llama")
    folder = export_hf(
        tmp_path / "out", params, config, {**hf, "dtype": "float32"}, dtype="bfloat16"
    )
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    assert same(load_model(folder, dtype="bfloat16").params, half)
    values = json.loads((folder / "config.json").read_text())
    assert values["torch_dtype"] == "bfloat16"
    assert "dtype" not in values
    transformers = pytest.importorskip("transformers")
    assert "bfloat16" in str(transformers.AutoConfig.from_pretrained(folder).dtype)


def test_split_layers_and_padded_vocabularies_export_alike(tmp_path: Path) -> None:
    hf, config, params = random_model("qwen2")
    split = split_layers(params, (1, 2))
    folder = export_hf(tmp_path / "out", split, config.with_num_tokens(55), hf)
    assert same(load_model(folder).params, params)


def test_an_export_over_an_older_one_replaces_it_and_leaves_other_files(tmp_path: Path) -> None:
    hf, config, params = random_model("llama")
    (tmp_path / "tokenizer.json").write_text("{}")
    export_hf(tmp_path, params, config, hf)
    newer = jax.tree.map(lambda a: a + 1, params)
    export_hf(tmp_path, newer, config, hf)
    assert same(load_model(tmp_path).params, newer)
    assert {file.name for file in tmp_path.iterdir()} == {
        "tokenizer.json",
        "config.json",
        "model.safetensors",
    }


def test_a_failing_export_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hf, config, params = random_model("llama")
    export_hf(tmp_path, params, config, hf)

    def full_disk(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError("no space left on device")

    monkeypatch.setattr(export, "save_file", full_disk)
    with pytest.raises(OSError, match="no space left"):
        export_hf(tmp_path, jax.tree.map(lambda a: a + 1, params), config, hf)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    assert same(load_model(tmp_path).params, params)


def test_mismatched_arguments_are_refused(tmp_path: Path) -> None:
    hf, config, params = random_model("llama")
    other = {**hf, "rope_theta": 5e5}
    with pytest.raises(InputError, match="hf_config describes another model"):
        export_hf(tmp_path, params, config, other)
    with pytest.raises(InputError, match=r"disagree on head\.kernel"):
        tied = {**hf, "tie_word_embeddings": True}
        export_hf(tmp_path, params, config_from_hf(tied), tied)
    with pytest.raises(InputError, match=r"parameter .* has shape .*; expected"):
        larger = {**hf, "intermediate_size": 50}
        export_hf(tmp_path, params, config_from_hf(larger), larger)
    with pytest.raises(InputError, match="float8"):
        export_hf(tmp_path, params, config, hf, dtype="float8")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_shards_is_refused(tmp_path: Path) -> None:
    hf, config, params = random_model("llama")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(InputError, match="a sharded checkpoint"):
        export_hf(tmp_path, params, config, hf)
