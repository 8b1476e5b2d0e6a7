"""Reading config.json: both spellings, defaults, and clear refusals; the table of tensors."""

import jax
import numpy as np
import pytest

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.families import FAMILIES, checkpoint_tensors, config_from_hf
from onceedit_jax.models.parameters import param_shapes

LLAMA = {
    "model_type": "llama",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GPT = {
    "model_type": "gpt2",
    "vocab_size": 50,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 16,
}
LLAMA3 = {
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def config_of(kind: str, **settings: object) -> ModelConfig:
    base = GPT if kind.startswith("gpt") else LLAMA
    # What transformers assumes for these two does not fit so small a model.
    own = {"mistral": {"num_key_value_heads": 2}, "gptj": {"rotary_dim": 4}}.get(kind, {})
    return config_from_hf({**base, **own, "model_type": kind, **settings})


@pytest.mark.parametrize("kind", FAMILIES)
def test_tensors_hold_every_leaf_exactly_once(kind):
    config = config_of(kind)
    held = [
        (leaf.path, leaf.layer) for t in checkpoint_tensors(config).values() for leaf in t.leaves
    ]
    wanted = []
    for path, shape in jax.tree_util.tree_leaves_with_path(param_shapes(config)):
        names = tuple(key.key for key in path)
        layers = range(shape.shape[0]) if names[0] == "layers" else [None]
        wanted += [(names, layer) for layer in layers]
    assert sorted(map(str, held)) == sorted(map(str, wanted))


@pytest.mark.parametrize("kind", FAMILIES)
def test_joining_what_was_split_gives_the_tensor_back(kind):
    generator = np.random.default_rng(0)
    for tensor in checkpoint_tensors(config_of(kind)).values():
        array = generator.normal(size=tensor.shape)
        parts = tensor.split(array)
        assert [part.shape for _, part in parts] == [leaf.shape for leaf, _ in parts]
        np.testing.assert_array_equal(tensor.join([part for _, part in parts]), array)


def test_a_tensor_of_another_shape_is_named():
    tensor = checkpoint_tensors(config_of("llama"))["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(InputError, match=r"layers\.1\.mlp\.up_proj.*\[48, 31\].*\[48, 32\]"):
        tensor.split(np.zeros((48, 31)))


def test_rope_scaling_reads_alike_in_the_old_and_the_new_spelling():
    old = config_of("llama", rope_theta=5e5, rope_scaling={"rope_type": "llama3", **LLAMA3})
    older = config_of("llama", rope_theta=5e5, rope_scaling={"type": "llama3", **LLAMA3})
    new = config_of("llama", rope_parameters={"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3})
    assert old == older == new
    assert new.rope.scaling == "llama3"
    assert new.rope.theta == 5e5


def test_gemma3_rope_reads_alike_in_the_old_and_the_new_spelling():
    old = config_of(
        "gemma3_text",
        rope_theta=1e6,
        rope_local_base_freq=5e3,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
        sliding_window_pattern=2,
    )
    new = config_of(
        "gemma3_text",
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
        },
        layer_types=["sliding_attention", "full_attention"],
    )
    assert old == new
    assert new.sliding_layers == (True, False)
    assert (new.rope.theta, new.rope.local_theta, new.rope.factor) == (1e6, 5e3, 8.0)


def test_what_a_config_leaves_out_is_what_transformers_assumes():
    assert config_of("llama").num_kv_heads == 4
    assert config_of("llama").head_dim == 8
    assert not config_of("llama").tie_embeddings
    assert config_of("qwen3").head_dim == 128
    assert config_of("gemma3_text").tie_embeddings
    assert config_of("gpt2").tie_embeddings
    assert config_of("gpt2").mlp_size == 128
    assert config_of("mistral").sliding_window == 4096
    assert config_of("mistral", sliding_window=None).sliding_layers == (
        False,
        False,
    )
    assert config_of("qwen2", sliding_window=8).sliding_window is None


def test_an_unknown_architecture_is_told_what_is_supported():
    with pytest.raises(InputError, match="'mamba'; expected one of llama, mistral, qwen2"):
        config_of("mamba")


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("llama", {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "rope_type is 'yarn'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic"}}, "rope_type is 'dynamic'"),
        ("llama", {"rope_scaling": {"type": "linear"}}, "no number factor"),
        ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ("llama", {"hidden_act": "relu2"}, "hidden_act is 'relu2'; expected one of silu"),
        ("llama", {"hidden_size": None}, "hidden_size is None"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("mistral", {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            "gemma3_text",
            {"rope_parameters": {"sliding_attention": {"type": "linear", "factor": 2.0}}},
            "sliding_attention.type is 'linear'",
        ),
        ("llama", {"rms_norm_eps": "1e-6"}, "rms_norm_eps is '1e-6'; expected a number"),
        ("llama", {"head_dim": 8.5}, "head_dim is 8.5; expected a whole number from 1"),
        ("gptj", {"rotary_dim": None}, "rotary_dim is None"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"n_head": 5}, "n_head is 5"),
    ],
)
def test_an_unsupported_setting_is_refused_by_name(kind, settings, message):
    with pytest.raises(InputError, match=message):
        config_of(kind, **settings)
