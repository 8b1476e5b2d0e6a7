"""Weights in eight bits: how far off they are, and that a model made of them is still a model."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from support import in_eight_bits, tiny_config

from onceedit_jax.distributed.mesh import data_mesh
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.families import checkpoint_tensors, config_from_hf
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.models.parameters import init_params, input_embeddings
from onceedit_jax.models.quantization import Int8, quantize
from onceedit_jax.models.sharding import fit_heads, fitted_config
from onceedit_jax.models.weights import load_model
from onceedit_jax.planning.plan import plan_model


@given(arrays(np.float32, (3, 2, 4), elements=st.floats(-1e4, 1e4, width=32)), st.integers(1, 2))
@example(np.full((3, 2, 4), 1e-45, np.float32), 1)
def test_no_entry_is_further_off_than_half_a_scale(matrix, inputs):
    small = quantize(matrix, range(inputs))
    assert small.values.dtype == np.int8
    assert small.scale.shape == (*(1,) * inputs, *matrix.shape[inputs:])
    off = np.abs(small.values * small.scale - matrix)
    assert (off <= small.scale * (0.5 + 1e-3)).all()
    # The largest entry of each channel is kept, and nothing is added to zeros.
    np.testing.assert_array_equal(quantize(np.zeros_like(matrix), range(inputs)).values, 0)


def test_scaling_a_channel_scales_its_scale_alone():
    matrix = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    once, thrice = quantize(matrix, [0]), quantize(matrix * [1, 4, 0.25], [0])
    np.testing.assert_array_equal(once.values, thrice.values)
    np.testing.assert_allclose(thrice.scale, once.scale * [1, 4, 0.25], rtol=1e-6)


def dequantize(tree, dtype):
    """A tree with an array in place of every `Int8` leaf."""
    return jax.tree.map(
        lambda leaf: leaf.values.astype(dtype) * leaf.scale if isinstance(leaf, Int8) else leaf,
        tree,
        is_leaf=lambda leaf: isinstance(leaf, Int8),
    )


def test_a_model_in_eight_bits_computes_what_its_dequantize_weights_do():
    config = tiny_config(31, num_heads=3, num_kv_heads=1)
    small = in_eight_bits(init_params(config, jax.random.key(0)))
    tokens = jnp.arange(12).reshape(2, 6)
    positions = jnp.broadcast_to(jnp.arange(6), (2, 6))
    wanted = forward(dequantize(small, jnp.float32), config, tokens, positions)[0]
    run = jax.jit(forward, static_argnums=1)
    for params in (small, unstack_layers(small)):
        np.testing.assert_allclose(run(params, config, tokens, positions)[0], wanted, atol=1e-5)
    fitted, changed = fit_heads(small, config, 2), fitted_config(config, 2)
    assert fitted["layers"]["attention"]["wo"].values.shape[1] == 4
    np.testing.assert_allclose(forward(fitted, changed, tokens, positions)[0], wanted, atol=1e-5)


def test_a_model_is_read_into_eight_bits(tmp_path: Path):
    hf = {
        "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=tensor.shape, scale=0.3).astype(np.float32)
        for name, tensor in checkpoint_tensors(config_from_hf(hf)).items()
    }
    (tmp_path / "config.json").write_text(json.dumps(hf))
    save_file(tensors, tmp_path / "model.safetensors")
    exact, small = load_model(tmp_path), load_model(tmp_path, dtype="int8")
    planned = plan_model(
        small.config, data_mesh(jax.devices()[:1]), rows=1, context=8, dtype="int8"
    )
    assert planned.weights == sum(leaf.nbytes for leaf in jax.tree.leaves(small.params))
    down = small.params["layers"]["mlp"]["down"]
    assert isinstance(down, Int8) and down.values.shape == (2, 24, 16)
    assert down.scale.shape == (2, 1, 16)
    assert small.params["head"]["kernel"].scale.shape == (1, 40)
    assert input_embeddings(small.params).dtype == jnp.float16
    assert small.params["final_norm"]["scale"].dtype == jnp.bfloat16
    assert small.content_hash == exact.content_hash
    wanted = in_eight_bits(exact.params)
    for leaf, other in zip(jax.tree.leaves(small.params), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(leaf, other.astype(leaf.dtype))


@pytest.mark.long
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_a_real_model_in_eight_bits_says_nearly_the_same(name):
    from onceedit_jax.ensemble.side import ModelSide
    from onceedit_jax.ensemble.target import load_target
    from onceedit_jax.models.decoder import unembed

    logits = []
    for dtype in ("float32", "int8"):
        target = load_target(f"demo:{name}", dtype=dtype)
        states = ModelSide.of_model(target).reference_states[:200]
        logits.append(unembed(target.model.params, target.model.config, jnp.asarray(states)))
    exact, small = (jax.nn.softmax(part) for part in logits)
    variation = 0.5 * jnp.abs(exact - small).sum(-1)
    agree = jnp.mean(jnp.argmax(exact, -1) == jnp.argmax(small, -1))
    print(f"{name}: total variation {variation.mean():.4f}, same token {agree:.3f}")
    assert variation.mean() < 0.06 and agree > 0.93
