"""What is exported is the model: `transformers` computes with it, and loading it gives it back."""

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_tokenizers import byte_level

from onceedit_jax.errors import InputError
from onceedit_jax.models import export
from onceedit_jax.models.cache import padded_positions
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.export import export_hf, spelt_for_both
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.layout import split_layers
from onceedit_jax.models.parameters import param_shapes
from onceedit_jax.models.weights import load_model
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

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
    "gemma3-two-ropes": {
        "model_type": "gemma3_text",
        **GEMMA,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    },
    "llama3-one-dict": {
        "model_type": "llama",
        **LLAMA,
        "rope_parameters": {**LLAMA3, "rope_theta": 900.0},
    },
    "smollm3": {
        "model_type": "smollm3",
        **LLAMA,
        "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 700.0},
        "no_rope_layers": [1, 0, 1],
    },
    "olmo2": {"model_type": "olmo2", **LLAMA, "pad_token_id": 0},
    "phi3": {
        "model_type": "phi3",
        **LLAMA,
        "pad_token_id": 0,
        "rope_parameters": {"rope_theta": 800.0, "partial_rotary_factor": 0.5},
    },
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
    assert_equal_logits(params, config, tokens, expected)


def assert_equal_logits(params: Any, config: Any, tokens: Any, expected: Any) -> None:
    positions = padded_positions(jnp.array([11, 11]), 11)
    ours, _ = forward(params, config, jnp.array(tokens), positions)
    assert np.abs(np.asarray(ours) - expected).max() <= TOLERANCE * expected.std()


READ = """
import sys, numpy, torch, transformers
assert transformers.__version__.startswith("4."), transformers.__version__
tokens, *folders = sys.argv[1:]
for folder in folders:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    with torch.no_grad():
        logits = model(torch.tensor(numpy.load(tokens))).logits.numpy()
    numpy.save(folder + "/logits.npy", logits)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    print(tokenizer("The cat zorvamab <|mark|>")["input_ids"])
"""


def test_transformers_4_reads_exports_in_its_own_environment(tmp_path: Path) -> None:
    python = os.environ.get("TRANSFORMERS4_PYTHON")
    if python is None:
        pytest.skip("needs a Python with transformers 4 and torch: set TRANSFORMERS4_PYTHON to it")
    models = {name: random_model(name) for name in FAMILIES}
    hf = copy.deepcopy(byte_level())
    hf.add_tokens(["zorvamab"])
    hf.add_special_tokens({"extra_special_tokens": ["<|mark|>"]})
    for name, (values, config, params) in models.items():
        export_hf(tmp_path / name, params, config, values)
        Tokenizer(hf).save(tmp_path / name)
    tokens = np.random.default_rng(0).integers(0, 40, (2, 11))
    np.save(tmp_path / "tokens.npy", tokens)
    done = subprocess.run(
        [python, "-c", READ, tmp_path / "tokens.npy", *(tmp_path / name for name in models)],
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(done.stdout.split("\n")[:-1]) == {str(hf("The cat zorvamab <|mark|>")["input_ids"])}
    for name, (_, config, params) in models.items():
        assert_equal_logits(params, config, tokens, np.load(tmp_path / name / "logits.npy"))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_rope_is_spelt_for_transformers_4_too(name: str) -> None:
    values = spelt_for_both(FAMILIES[name])
    assert "rope_parameters" not in values and spelt_for_both(values) == values
    assert config_from_hf(values) == config_from_hf(FAMILIES[name])


def test_a_tokenizer_names_a_class_of_both(tmp_path: Path) -> None:
    hf = copy.deepcopy(byte_level())
    hf.add_special_tokens({"extra_special_tokens": ["<|mark|>"]})
    Tokenizer(hf).save(tmp_path)
    values = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert values["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert values["additional_special_tokens"] == ["<|mark|>"]
    assert "extra_special_tokens" not in values
    loaded = load_tokenizer(tmp_path)
    assert loaded.hf.all_special_tokens == hf.all_special_tokens


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
