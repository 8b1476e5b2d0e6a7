"""Weights of a GGUF file come back from the cache folder bit for bit as they were dequantized."""

import mmap

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_files import MODELS, random_tensors, write_gguf

from onceedit_jax.errors import InputError
from onceedit_jax.models import weights
from onceedit_jax.models.kept_weights import place_of
from onceedit_jax.models.weights import load_model
from onceedit_jax.storage import gguf_parts
from onceedit_jax.storage.sources import cache_folder
from onceedit_jax.text.tokenizer import load_tokenizer

DTYPES = ("float32", "bfloat16", "float16", "int8")


def same_bits(one, other):
    """Whether two trees hold the same arrays, bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and np.asarray(a).tobytes() == np.asarray(b).tobytes()
        for a, b in pairs
    )


@pytest.fixture
def tiny(tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", MODELS["llama"], random_tensors(MODELS["llama"]))


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_second_load_maps_the_very_weights(tmp_path, keeping, monkeypatch, case, dtype):
    kinds = {"token_embd.weight": gguf.GGMLQuantizationType.Q8_0}
    path = write_gguf(tmp_path / "m.gguf", MODELS[case], random_tensors(MODELS[case]), kinds=kinds)
    read = load_model(path, dtype=dtype)
    monkeypatch.setattr(weights, "_opened", lambda path: pytest.fail("dequantized again"))
    kept = load_model(path, dtype=dtype)
    assert same_bits(kept.params, read.params)
    for name in ("config", "name", "content_hash", "source", "hf_config", "spec"):
        assert getattr(kept, name) == getattr(read, name)


def test_each_dtype_is_kept_for_itself(tiny, keeping):
    for dtype in DTYPES:
        load_model(tiny, dtype=dtype)
    assert len(list(keeping.glob("*.safetensors"))) == len(DTYPES)


def test_a_mapped_weight_that_is_donated_is_copied_and_the_entry_stays_as_it_is(tiny, keeping):
    load_model(tiny)
    (file,) = keeping.glob("*.safetensors")
    before = file.read_bytes()
    params = load_model(tiny).params
    expected = jax.tree.map(lambda x: np.array(x), params)
    jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)(params)
    assert file.read_bytes() == before
    assert same_bits(load_model(tiny).params, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_are_kept_are_the_mapped_file_itself(tiny, keeping, monkeypatch, dtype):
    first = load_model(tiny, dtype=dtype).params
    assert jax.default_backend() == "cpu"
    ranges, real = [], mmap.mmap

    def mapping(*given, **options):
        data = real(*given, **options)
        start = np.frombuffer(data, np.uint8).ctypes.data
        ranges.append(range(start, start + len(data)))
        return data

    monkeypatch.setattr(mmap, "mmap", mapping)
    second = load_model(tiny, dtype=dtype).params
    assert same_bits(second, first)
    for leaf in jax.tree.leaves(second):
        aligned = leaf.nbytes % 64 == 0  # a smaller one may lie anywhere, and is copied
        place = leaf.unsafe_buffer_pointer()
        assert not aligned or any(place in each for each in ranges)
    assert any(leaf.nbytes % 64 == 0 for leaf in jax.tree.leaves(second))


def test_keeping_weights_leaves_no_copies_on_the_host(tiny, keeping):
    params = load_model(tiny).params
    assert list(keeping.glob("*.safetensors"))
    assert all(leaf._npy_value is None for leaf in jax.tree.leaves(params))


def test_a_file_that_is_rewritten_while_it_is_read_is_not_kept(tiny, keeping, monkeypatch):
    other = random_tensors(MODELS["llama"])
    other["model.embed_tokens.weight"] += 1
    real = weights.assemble

    def rewrite(*given, **options):
        write_gguf(tiny, MODELS["llama"], other)
        return real(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(weights, "assemble", rewrite)
        load_model(tiny)
    assert not list(keeping.glob("*.safetensors"))
    load_model(tiny)
    assert len(list(keeping.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("change", ["name", "shape", "dtype"])
def test_weights_of_another_shape_are_made_anew(tiny, keeping, change):
    read = load_model(tiny)
    place = place_of(tiny, "float32")
    arrays, about = place.read(lambda *found: found)
    changed = {name: np.array(array) for name, array in arrays.items()}
    table = changed.pop("embed.tokens")
    changed |= {
        "name": {"embed.other": table},
        "shape": {"embed.tokens": table[1:]},
        "dtype": {"embed.tokens": table.astype(np.float16)},
    }[change]
    place.path.unlink()
    place.keep(changed, about)
    with pytest.warns(UserWarning, match="holds something else than expected.*made anew"):
        found = load_model(tiny)
    assert same_bits(found.params, read.params)
    assert same_bits(load_model(tiny).params, read.params)


def test_what_is_said_of_the_head_is_said_again(tiny, keeping, monkeypatch):
    real = weights.with_true_head
    monkeypatch.setattr(weights, "with_true_head", lambda *a: (real(*a)[0], "the head is odd"))
    for _ in range(2):  # converted, and kept
        with pytest.warns(UserWarning, match=r"tiny\.gguf: the head is odd"):
            load_model(tiny)
    assert len(list(keeping.glob("*.safetensors"))) == 1


def test_a_large_file_that_is_no_gguf_file_is_not_hashed(tmp_path, keeping, monkeypatch):
    (tmp_path / "x.gguf").write_bytes(b"other" * 1000)
    assert place_of(tmp_path / "x.gguf", "float32") is None
    with pytest.raises(InputError, match="not a GGUF file"):
        load_model(tmp_path / "x.gguf")


def test_a_small_file_is_not_kept(tiny, keeping, monkeypatch):
    monkeypatch.setattr(gguf_parts, "LARGE", tiny.stat().st_size + 1)
    assert place_of(tiny, "float32") is None


def damaged(keeping):
    """The only file that is kept, after a bit of its last tensor was flipped, and its bytes."""
    (file,) = keeping.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data)
    return file, data


def test_damaged_weights_are_named_and_made_anew(tiny, keeping):
    read = load_model(tiny)
    file, data = damaged(keeping)
    with pytest.warns(UserWarning, match=f"{file.name}: is damaged.*made anew"):
        found = load_model(tiny)
    assert same_bits(found.params, read.params)
    assert file.read_bytes() != data
    assert same_bits(load_model(tiny).params, read.params)


def test_unverified_weights_are_taken_as_they_are(tiny, keeping):
    read = load_model(tiny)
    damaged(keeping)
    assert not same_bits(load_model(tiny, verify=False).params, read.params)


def test_a_file_that_changes_is_read(tiny, keeping):
    load_model(tiny)
    other = random_tensors(MODELS["llama"])
    table = "model.embed_tokens.weight"
    other[table] = other[table] + 1
    write_gguf(tiny, MODELS["llama"], other)
    found = np.asarray(load_model(tiny).params["embed"]["tokens"])
    np.testing.assert_array_equal(found, other[table])


def test_a_file_that_was_damaged_unseen_is_not_kept_under_its_hash(tiny, keeping, monkeypatch):
    load_model(tiny)
    for file in keeping.glob("*.safetensors"):
        file.unlink()
    monkeypatch.setattr(weights, "content_hash", lambda files: "another")
    load_model(tiny)
    assert not list(keeping.glob("*.safetensors"))


def test_tokens_beyond_the_rows_are_refused_of_kept_weights_too(tiny, keeping):
    load_model(tiny)
    with pytest.raises(InputError, match=r"tiny\.gguf: .*51"):
        load_model(tiny, num_tokens=51)
    assert load_model(tiny, num_tokens=40).config.num_tokens == 40


def test_a_mesh_reads_the_file_itself(tiny, keeping):
    from onceedit_jax.distributed.mesh import data_mesh

    load_model(tiny, mesh=data_mesh())
    assert not list(keeping.glob("*.safetensors"))
    assert jnp.isfinite(load_model(tiny).params["embed"]["tokens"]).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", "gemma3-270m"])
def test_real_models_come_back_bit_for_bit(tmp_path, monkeypatch, name):
    read, tokenizer = load_model(f"demo:{name}"), load_tokenizer(f"demo:{name}")
    (tmp_path / "models").symlink_to(cache_folder() / "models")
    monkeypatch.setenv("ONCEEDIT_CACHE", str(tmp_path))
    monkeypatch.setenv("ONCEEDIT_CONVERTED_GB", "5")
    for _ in range(2):  # kept, and mapped
        found, again = load_model(f"demo:{name}"), load_tokenizer(f"demo:{name}")
    assert len(list((tmp_path / "converted").glob("*.safetensors"))) == 2
    assert same_bits(found.params, read.params)
    assert (found.config, found.content_hash) == (read.config, read.content_hash)
    one, other = again.hf.backend_tokenizer, tokenizer.hf.backend_tokenizer
    assert one.to_str() == other.to_str()
    assert again.vocabulary.bytes == tokenizer.vocabulary.bytes
