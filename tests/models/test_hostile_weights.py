"""Configs and weights that are no model's are refused by name, before anything large is made."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from model_folders import LLAMA, random_tensors, write_folder
from support import tiny_config

from onceedit_jax.errors import InputError
from onceedit_jax.models import assembly
from onceedit_jax.models.config import ModelConfig, Rope
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.finite import check_finite
from onceedit_jax.models.weights import load_model

MODELS: dict[str, dict[str, Any]] = {
    **{kind: {**LLAMA, "model_type": kind} for kind in ("llama", "mistral", "qwen2")},
    "gemma3": {**LLAMA, "model_type": "gemma3_text"},
    "gpt2": {
        "model_type": "gpt2", "vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4,
        "n_positions": 64,
    },
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
NOT_NUMBERS = (float("nan"), float("inf"), -1, 0, "8", True, [8], {})


@pytest.mark.parametrize("value", NOT_NUMBERS)
@pytest.mark.parametrize(
    ("kind", "key"),
    [
        *[("llama", key) for key in ("hidden_size", "num_hidden_layers", "vocab_size", "head_dim")],
        *[("llama", key) for key in ("rms_norm_eps", "rope_theta", "max_position_embeddings")],
        ("mistral", "sliding_window"),
        ("qwen2", "num_key_value_heads"),
        *[("gemma3", key) for key in ("query_pre_attn_scalar", "rope_local_base_freq")],
        *[("gpt2", key) for key in ("layer_norm_epsilon", "n_head", "n_positions", "n_inner")],
    ],
)
def test_a_hyper_parameter_that_is_no_sound_number_is_named(
    kind: str, key: str, value: Any
) -> None:
    with pytest.raises(InputError, match=rf"config\.json: {key} is"):
        config_from_hf({**MODELS[kind], key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 20_000_000}, "num_hidden_layers is 20000000; expected .* to 4096"),
        ({"model_type": ["llama"]}, "model_type is"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'; expected true or false"),
        ({"hidden_act": 3}, "hidden_act is 3"),
        ({"rope_scaling": {**LLAMA3, "factor": 0.0}}, r"rope_scaling\.factor is 0\.0"),
        ({"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}}, "expected the second to be larger"),
        ({"rope_scaling": {**LLAMA3, "mscale": 2}}, r"rope_scaling\.mscale is 2; expected no such"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e5}}}, "one rope for all layers"),
        ({"layer_types": ["full_attention", 3, 3]}, r"layer_types\[1\] is 3"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps is"),
        (
            {"rope_scaling": {"factor": 2.0}},
            r"rope_scaling\.factor is 2\.0; expected a .*rope_type",
        ),
        ({"rope_scaling": {"rope_type": "default", "type": "linear"}}, r"rope_scaling\.type is"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 5}},
            r"rope_scaling\.type is 'linear'; expected what rope_parameters says",
        ),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types is 'sliding_attention'"),
        ({"final_logit_softcapping": 30.0}, r"final_logit_softcapping is 30\.0"),
        ({"num_local_experts": 8}, "num_local_experts is 8"),
        ({"quantization": {"bits": 4}}, "quantization is"),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "1 entries in .*for 3 layers"),
        (
            {"model_type": "smollm3", "layer_types": ["sliding_attention"] * 3},
            "sliding_window None",
        ),
        ({"model_type": "olmo2", "layer_types": ["sliding_attention"] * 3}, "layer_types is"),
    ],
)
def test_what_would_hang_or_be_ignored_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        config_from_hf({**LLAMA, **change})
    assert "\n" not in str(caught.value)


def test_what_says_the_same_twice_is_read() -> None:
    rope = {"rope_type": "linear", "factor": 2.0}
    twice = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": rope}
    assert config_from_hf({**LLAMA, **twice}) == config_from_hf({**LLAMA, "rope_scaling": rope})
    usual = {"layer_types": ["full_attention"] * 3, "rope_scaling": {"rope_type": "default"}}
    assert config_from_hf({**LLAMA, **usual, "num_experts": 0}) == config_from_hf(LLAMA)


def test_a_type_of_a_folder_that_is_no_text_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path, LLAMA, random_tensors(LLAMA))
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "model_type": ["llama"]}))
    with pytest.raises(InputError, match="model_type is"):
        load_model(tmp_path)


def test_a_flat_rope_is_none_of_gemmas() -> None:
    with pytest.raises(InputError, match=r"rope_parameters\.rope_type is 'yarn'"):
        config_from_hf({**MODELS["gemma3"], "rope_parameters": {"rope_type": "yarn"}})


@pytest.mark.parametrize(
    "change", [{"norm_eps": 0.0}, {"num_heads": True}, {"query_scale": float("inf")}]
)
def test_a_config_made_in_code_is_held_to_the_same_ranges(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"model config: {next(iter(change))} is"):
        tiny_config(20, **change)
    with pytest.raises(InputError, match="rope: theta is"):
        Rope(theta=0.0, dim=8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("family"), "no family"),
        (lambda v: v.update(hidden_size="32"), "hidden_size: expected a whole number"),
        (lambda v: v["rope"].update(scaling="yarn"), "scaling: expected one of none, linear"),
        (lambda v: v.update(norm_eps=float("nan")), "norm_eps: expected a finite number"),
    ],
)
def test_a_config_of_an_artifact_is_checked_too(change: Any, message: str) -> None:
    values = json.loads(json.dumps(tiny_config(20).to_dict()))
    assert ModelConfig.from_dict(values) == tiny_config(20)
    change(values)
    with pytest.raises(InputError, match=message):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_named_with_its_place(dtype: Any, value: float) -> None:
    array = np.linspace(-3, 3, 600_000).astype(dtype)
    check_finite(array, "f", "w")
    array[400_001] = value
    with pytest.raises(InputError, match="f: value 400001 of tensor w is"):
        check_finite(array, "f", "w")


def test_weights_that_are_no_numbers_are_found_while_loading(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = np.nan
    folder = write_folder(tmp_path / "nan", LLAMA, tensors)
    for dtype in ("float32", "bfloat16", "int8"):
        with pytest.raises(
            InputError, match=r"tensor model\.layers\.1\.mlp\.up_proj\.weight is nan"
        ):
            load_model(folder, dtype=dtype)


def test_weights_beyond_the_range_of_a_dtype_are_found(tmp_path: Path) -> None:
    tensors = random_tensors(LLAMA)
    tensors["model.norm.weight"][5] = 1e6
    folder = write_folder(tmp_path / "large", LLAMA, tensors)
    load_model(folder)
    with pytest.raises(InputError, match=r"value 5 .* is inf as float16; .* wider range"):
        load_model(folder, dtype="float16")


def test_a_model_larger_than_the_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "m", LLAMA, random_tensors(LLAMA))
    monkeypatch.setattr(assembly, "memory", lambda: 1000)
    with pytest.raises(InputError, match="expected at most the 1,000 of this machine"):
        load_model(folder)


@pytest.mark.parametrize(
    "entry", [3, None, "../x.safetensors", "/etc/passwd", "x.bin", "a\nb.safetensors", ["x"]]
)
def test_an_index_names_files_of_its_folder(tmp_path: Path, entry: Any) -> None:
    folder = write_folder(tmp_path / "m", LLAMA, random_tensors(LLAMA), shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = entry
    path.write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"index\.json: weight_map") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
