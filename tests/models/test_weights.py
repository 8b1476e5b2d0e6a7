"""A checkpoint's tensors land in their leaves; whatever is wrong with a file is said plainly."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from model_folders import LLAMA, Tensors, random_tensors, write_folder
from safetensors.numpy import save_file

from onceedit_jax.errors import InputError
from onceedit_jax.models.cache import padded_positions
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.families import checkpoint_tensors, config_from_hf
from onceedit_jax.models.parameters import param_shapes
from onceedit_jax.models.weights import load_model


@pytest.fixture
def tensors() -> Tensors:
    return random_tensors(LLAMA)


@pytest.fixture
def folder(tmp_path: Path, tensors: Tensors) -> Path:
    return write_folder(tmp_path / "tiny", LLAMA, tensors)


def test_every_tensor_lands_in_its_leaf(folder: Path, tensors: Tensors) -> None:
    model = load_model(folder)
    params, layer = model.params, "model.layers.1."
    attention = params["layers"]["attention"]
    np.testing.assert_array_equal(params["embed"]["tokens"], tensors["model.embed_tokens.weight"])
    np.testing.assert_array_equal(params["head"]["kernel"], tensors["lm_head.weight"].T)
    query = tensors[layer + "self_attn.q_proj.weight"]  # [H K, D], head by head
    np.testing.assert_array_equal(attention["wq"][1][:, 2], query[8:12].T)
    np.testing.assert_array_equal(
        attention["wo"][1][3], tensors[layer + "self_attn.o_proj.weight"][:, 12:].T
    )
    np.testing.assert_array_equal(
        params["layers"]["mlp"]["down"][1], tensors[layer + "mlp.down_proj.weight"].T
    )
    np.testing.assert_array_equal(
        params["layers"]["mlp_norm"]["scale"][1],
        tensors[layer + "post_attention_layernorm.weight"],
    )


def test_the_loaded_tree_is_the_decoders(folder: Path) -> None:
    model = load_model(folder)
    assert (model.name, model.source, model.hf_config) == ("tiny", folder, LLAMA)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), model.params)
    assert shapes == jax.tree.map(lambda s: (s.shape, s.dtype), param_shapes(model.config))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model.params))
    tokens = jnp.array([[1, 2, 3]])
    logits, _ = forward(model.params, model.config, tokens, padded_positions(jnp.array([3]), 3))
    assert jnp.isfinite(logits).all()


def test_shards_give_the_same_model(tmp_path: Path, folder: Path, tensors: Tensors) -> None:
    whole = load_model(folder)
    sharded = load_model(write_folder(tmp_path / "sharded", LLAMA, tensors, shards=3))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, whole.params, sharded.params))


def test_one_file_wins_over_shards_beside_it(tmp_path: Path, tensors: Tensors) -> None:
    older = {name: value + 1 for name, value in tensors.items()}
    write_folder(tmp_path, LLAMA, older, shards=2)
    params = load_model(write_folder(tmp_path, LLAMA, tensors)).params
    np.testing.assert_array_equal(params["embed"]["tokens"], tensors["model.embed_tokens.weight"])


def test_two_names_of_one_parameter_are_refused(tmp_path: Path, tensors: Tensors) -> None:
    twice = {**tensors, "norm.weight": tensors["model.norm.weight"] + 1}
    with pytest.raises(InputError, match="two names for one parameter"):
        load_model(write_folder(tmp_path, LLAMA, twice))


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("memory", ["float32", "bfloat16", "float16"])
def test_any_float_dtype_is_converted_to_the_memory_dtype(
    tmp_path: Path, stored: Any, memory: str
) -> None:
    tensors = random_tensors(LLAMA, stored)
    params = load_model(write_folder(tmp_path / "m", LLAMA, tensors), dtype=memory).params
    embed = params["embed"]["tokens"]
    assert embed.dtype == memory
    np.testing.assert_array_equal(
        np.asarray(embed), tensors["model.embed_tokens.weight"].astype(jnp.dtype(memory))
    )


def test_a_checkpoint_of_the_bare_body_loads_without_its_prefix(
    tmp_path: Path, tensors: Tensors
) -> None:
    bare = {name.removeprefix("model."): value for name, value in tensors.items()}
    params = load_model(write_folder(tmp_path / "bare", LLAMA, bare)).params
    np.testing.assert_array_equal(params["embed"]["tokens"], tensors["model.embed_tokens.weight"])


def test_a_tied_heads_copy_and_old_buffers_are_skipped(tmp_path: Path) -> None:
    tied = {**LLAMA, "tie_word_embeddings": True}
    tensors = random_tensors(tied)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    assert "head" not in load_model(write_folder(tmp_path / "tied", tied, tensors)).params


def test_the_content_hash_is_that_of_weights_and_config(
    tmp_path: Path, folder: Path, tensors: Tensors
) -> None:
    first = load_model(folder).content_hash
    assert len(first) == len(hashlib.sha256().hexdigest())
    assert load_model(write_folder(tmp_path / "copy", LLAMA, tensors)).content_hash == first
    assert load_model(folder, dtype="bfloat16").content_hash == first
    changed = {**tensors, "model.norm.weight": tensors["model.norm.weight"] + 1}
    assert load_model(write_folder(tmp_path / "w", LLAMA, changed)).content_hash != first
    other = {**LLAMA, "rope_theta": 5e5}
    assert load_model(write_folder(tmp_path / "c", other, tensors)).content_hash != first


def test_rows_beyond_the_vocabulary_are_padding(folder: Path) -> None:
    config = load_model(folder, num_tokens=37).config
    assert (config.num_tokens, config.vocab_size) == (37, 40)


# What can be wrong with a folder: a way to break it, and what the error must name.


def without(name: str) -> Any:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def replaced(name: str, value: np.ndarray) -> Any:
    return lambda tensors: {**tensors, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("model.norm.weight"), r"bad: missing tensor model\.norm\.weight; expected"),
        (
            replaced("model.norm.weight", np.ones(15, np.float32)),
            r"bad: tensor model\.norm\.weight has shape \[15\]; expected \[16\]",
        ),
        (
            replaced("model.layers.0.mlp.experts.weight", np.ones(3, np.float32)),
            r"bad: unknown tensor model\.layers\.0\.mlp\.experts\.weight; expected",
        ),
        (
            replaced("model.norm.weight", np.ones(16, np.int8)),
            r"model\.safetensors: tensor model\.norm\.weight has dtype I8; expected one of F64",
        ),
    ],
)
def test_wrong_tensors_are_named(
    tmp_path: Path, tensors: Tensors, change: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load_model(write_folder(tmp_path / "bad", LLAMA, change(tensors)))


@pytest.mark.parametrize("keep", [0, 20, 1000, -4])
def test_a_truncated_file_is_named(folder: Path, keep: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"model\.safetensors: .*truncated or damaged"):
        load_model(folder)


def test_a_missing_shard_is_named(tmp_path: Path, tensors: Tensors) -> None:
    folder = write_folder(tmp_path / "sharded", LLAMA, tensors, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(InputError, match=r"missing shard model-00002-of-00003.* of 3"):
        load_model(folder)


def test_a_shard_without_its_tensor_is_named(tmp_path: Path, tensors: Tensors) -> None:
    folder = write_folder(tmp_path / "sharded", LLAMA, tensors, shards=2)
    save_file({"x": np.ones(1, np.float32)}, folder / "model-00001-of-00002.safetensors")
    with pytest.raises(InputError, match=r"model-00001-of-00002\.safetensors: missing tensor"):
        load_model(folder)


def test_more_tokens_than_embedding_rows_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"tiny: the tokenizer has 41 tokens, the embedding 40"):
        load_model(folder, num_tokens=41)


def test_an_unknown_architecture_is_refused(tmp_path: Path, tensors: Tensors) -> None:
    folder = write_folder(tmp_path / "bert", {**LLAMA, "model_type": "bert"}, tensors)
    with pytest.raises(InputError, match=r"bert: config\.json: model_type is 'bert'; expected"):
        load_model(folder)


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*convert it"):
        load_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(InputError, match=r"no weights; expected model\.safetensors"):
        load_model(folder)


def test_a_folder_without_a_sound_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not JSON"):
        load_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        load_model(folder)
    (folder / "model.gguf").write_bytes(b"")
    with pytest.raises(InputError, match=r"give the file itself: .*model\.gguf"):
        load_model(folder)


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="float8"):
        load_model(folder, dtype="float8")


MEASURE = """
import re, sys
from pathlib import Path
import jax
from onceedit_jax.models.weights import load_model

def peak():  # not ru_maxrss, which starts from the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

load_model(sys.argv[1], dtype=sys.argv[3])  # a tiny one: what JAX itself takes is not counted
before = peak()
model = load_model(sys.argv[2], dtype=sys.argv[3])
jax.block_until_ready(model.params)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("stored", "memory"),
    [(np.float16, "float32"), (np.float32, "float32"), (np.float32, "bfloat16")],
)
def test_memory_grows_by_the_model_and_its_largest_tensor(
    tmp_path: Path, folder: Path, stored: Any, memory: str
) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12}
    large = {**LLAMA, **sizes, "vocab_size": 8000}
    expected = checkpoint_tensors(config_from_hf(large))
    shapes = [tensor.shape for tensor in expected.values()]
    tensors = {name: np.ones(t.shape, stored) for name, t in expected.items()}
    big = write_folder(tmp_path / "large", large, tensors, shards=2)
    command = [sys.executable, "-c", MEASURE, str(folder), str(big), memory]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    itemsize = jnp.dtype(memory).itemsize
    model = sum(int(np.prod(shape)) for shape in shapes) * itemsize
    largest = max(int(np.prod(shape)) for shape in shapes) * itemsize
    assert model > 100e6
    growth = int(printed) * 1024
    assert growth > 0.9 * model  # else the measurement measures nothing
    assert growth < 1.1 * model + largest, (growth / 1e6, model / 1e6, largest / 1e6)
