"""A GGUF file gives the very model its Hugging Face folder gives; damaged ones are refused."""

import json
from pathlib import Path
from typing import Any

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_files import MODELS, random_tensors, write_gguf
from safetensors.numpy import save_file

from onceedit_jax.errors import InputError, RunError
from onceedit_jax.models.cache import init_cache, padded_positions
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.gguf_models import GGUFSource, equivalent_config
from onceedit_jax.models.gguf_rope import llama3_scaling
from onceedit_jax.models.layers import NEG_INF
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.storage.gguf import read_header
from onceedit_jax.storage.sources import resolve
from onceedit_jax.text.tokenizer import load_tokenizer


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    hf = MODELS["llama, tied"]
    return write_gguf(tmp_path / "tiny.gguf", hf, random_tensors(hf))


@pytest.mark.parametrize("case", MODELS)
def test_a_gguf_file_gives_the_model_of_its_folder(tmp_path: Path, case: str) -> None:
    hf = MODELS[case]
    tensors = random_tensors(hf)
    (tmp_path / "config.json").write_text(json.dumps(hf))
    save_file(tensors, tmp_path / "model.safetensors")
    folder = load_model(tmp_path)
    file = load_model(write_gguf(tmp_path / "model.gguf", hf, tensors))
    assert file.config == folder.config
    assert jax.tree.all(jax.tree.map(jnp.array_equal, file.params, folder.params))


def test_the_config_is_one_that_json_and_the_families_table_take(tiny: Path) -> None:
    config = load_model(tiny).hf_config
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["eos_token_id"] == 3
    assert config["rms_norm_eps"] == 1e-6  # not the digits of its float32
    assert config_from_hf(json.loads(json.dumps(config))) == load_model(tiny).config


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q5_1"])
def test_quantized_tensors_are_dequantized_as_the_gguf_package_does(
    tmp_path: Path, kind: str
) -> None:
    quantization = gguf.GGMLQuantizationType[kind]
    hf = MODELS["llama, tied"] | {"vocab_size": 9000}  # more than one chunk
    tensors = random_tensors(hf)
    path = write_gguf(tmp_path / "q.gguf", hf, tensors, kinds={"token_embd.weight": quantization})
    table = tensors["model.embed_tokens.weight"]
    expected = gguf.quants.dequantize(gguf.quants.quantize(table, quantization), quantization)
    found = load_model(path).params["embed"]["tokens"]
    np.testing.assert_array_equal(np.asarray(found), expected)
    assert np.abs(np.asarray(found) - table).max() < 0.15
    half = load_model(path, dtype="bfloat16").params["embed"]["tokens"]
    np.testing.assert_array_equal(np.asarray(half), expected.astype(jnp.bfloat16))


@pytest.mark.parametrize(("factor", "original", "high"), [(8.0, 8192, 4.0), (32.0, 4096, 3.0)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_llama3_scaling_is_recovered_from_its_divisors(
    factor: float, original: int, high: float, head_dim: int
) -> None:
    frequencies = 500000.0 ** (-np.arange(0, head_dim, 2) / head_dim)
    divisors = []
    for wave in 2 * np.pi / frequencies:  # as the Llama-3 authors define it
        smooth = (original / wave - 1.0) / (high - 1.0)
        if wave < original / high:
            divisors.append(1.0)
        elif wave > original:
            divisors.append(factor)
        else:
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    found = llama3_scaling(Path("x"), np.array(divisors, np.float32), 500000.0)
    assert found["rope_type"] == "llama3"
    assert found["factor"] == factor
    assert found["high_freq_factor"] == high
    assert found["original_max_position_embeddings"] == pytest.approx(original, rel=1e-4)


def test_other_divisors_are_refused(tmp_path: Path) -> None:
    hf = MODELS["llama"]
    extra = {"rope_freqs.weight": np.array([1, 3, 2, 9], np.float32)}
    path = write_gguf(tmp_path / "m.gguf", hf, random_tensors(hf), extra=extra)
    with pytest.raises(InputError, match=r"rope_freqs\.weight holds divisors from 1 to 9"):
        load_model(path)


@pytest.mark.parametrize(
    "metadata",
    [
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
        {"rope.scaling.factor": 4.0},
        {"rope.scale_linear": 4.0},
    ],
)
def test_linear_rope_scaling_is_kept(tmp_path: Path, metadata: dict[str, Any]) -> None:
    hf = MODELS["llama"]
    rope = load_model(
        write_gguf(tmp_path / "m.gguf", hf, random_tensors(hf), metadata=metadata)
    ).config.rope
    assert rope is not None
    assert (rope.scaling, rope.factor) == ("linear", 4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"rope.scaling.type": "yarn"}}, r"rope scaling is 'yarn'"),
        ({"metadata": {"expert_count": 8}}, r"llama\.expert_count is 8"),
        ({"metadata": {"attention.clamp_kqv": 8.0}}, r"llama\.attention\.clamp_kqv is 8"),
        ({"metadata": {"rope.scale_linear": 0.0}}, r"llama\.rope\.scale_linear is 0"),
        (
            {"extra": {"rope_freqs.weight": np.ones((2, 2), np.float32)}},
            r"rope_freqs\.weight has shape \[2, 2\]; expected \[4\]",
        ),
        ({"metadata": {"rope.dimension_count": 4}}, r"keys of 8 dimensions, 4 of them rotated"),
        ({"drop": ("block_count",)}, r"metadata llama\.block_count is None; expected one number"),
        ({"drop": ("token_embd.weight",)}, r"missing tensor token_embd\.weight"),
        ({"drop": ("output_norm.weight",)}, r"missing tensor model\.norm\.weight"),
        (
            {"extra": {"blk.0.ffn_gate_inp.weight": np.ones(4, np.float32)}},
            r"unknown tensor blk\.0\.ffn_gate_inp\.weight",
        ),
        (
            {"extra": {"output_norm.weight": np.ones(31, np.float32)}},
            r"tensor model\.norm\.weight has shape \[31\]; expected \[32\]",
        ),
        (
            {"extra": {"output_norm.weight": np.ones(32, np.int32)}},
            r"tensor output_norm\.weight has type I32; expected floats",
        ),
    ],
)
def test_what_the_decoder_cannot_compute_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    hf = MODELS["llama"]
    with pytest.raises(InputError, match=message):
        load_model(write_gguf(tmp_path / "bad.gguf", hf, random_tensors(hf), **change))


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    hf = MODELS["llama"] | {"model_type": "mamba"}
    path = write_gguf(tmp_path / "m.gguf", hf, {"model.norm.weight": np.ones(3, np.float32)})
    with pytest.raises(InputError, match=r"m\.gguf: unknown architecture 'mamba'; supported"):
        load_model(path)


def test_every_truncation_is_noticed(tiny: Path, tmp_path: Path) -> None:
    whole = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [0, *range(3, len(whole) - 32, 97)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.gguf: (truncated file|not a GGUF file)"):
            read_header(cut)


def test_other_files_and_versions_are_refused(tiny: Path) -> None:
    whole = tiny.read_bytes()
    tiny.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match="not a GGUF file"):
        load_model(tiny)
    tiny.write_bytes(whole[:4] + b"\x01" + whole[5:])
    with pytest.raises(InputError, match="GGUF version 1; expected 2 or 3"):
        load_model(tiny)


# The real demo models.

DEMO = ("demo:smollm2-135m", "demo:gemma3-270m")
PROMPTS = (
    "The capital of Portugal is",
    "Water boils at a temperature of",
    "The author of Hamlet is",
    "My favourite thing about the winter is",
    "To bake bread you need flour, water and",
    "The opposite of hot is",
    "Seven times eight equals",
    "In the year 1969, people first",
    "The river that runs through Cairo is the",
    "def add(a, b):\n    return",
    "Dear Sir or Madam,\n",
    "The chemical symbol for gold is",
    "A violin has four",
    "The largest planet of the solar system is",
    "Once upon a time there was a fox who",
    "Roses are red, violets are",
    "The train to Vienna leaves at",
    "Le plus grand pays du monde est",
    "Photosynthesis is the process by which plants",
    "She opened the letter and read:",
)
NEW_TOKENS = 6


@pytest.fixture(scope="module", params=DEMO)
def demo(request: pytest.FixtureRequest) -> LoadedModel:
    try:
        resolve(request.param)
    except RunError as error:
        pytest.skip(f"{request.param} cannot be fetched here: {error}")
    return load_model(request.param)


@pytest.fixture(scope="module")
def reference(demo: LoadedModel) -> Any:
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(
        demo.source.parent, gguf_file=demo.source.name, dtype="float32"
    )
    return model.eval()


@pytest.mark.slow
def test_real_weights_are_those_of_the_transformers_loader(
    demo: LoadedModel, reference: Any
) -> None:
    file = read_header(demo.source)
    source = GGUFSource(file)
    theirs = reference.state_dict()
    for name in source.names():
        ours = np.empty(source.shape(name), np.float32)
        source.read(name, ours)
        np.testing.assert_array_equal(ours, theirs[name].numpy(), err_msg=name)
    assert equivalent_config(file) == demo.hf_config


@pytest.mark.long
def test_real_greedy_continuations_are_those_of_transformers(
    demo: LoadedModel, reference: Any
) -> None:
    import torch

    tokenizer = load_tokenizer(demo.source)
    config, prompts = demo.config, [tokenizer.encode(prompt) for prompt in PROMPTS]
    lengths = np.array([len(ids) for ids in prompts], np.int32)
    width = int(lengths.max())
    end = jnp.array(reference.generation_config.eos_token_id)

    @jax.jit
    def step(params: Any, tokens: Any, positions: Any, last: Any, cache: Any) -> Any:
        hidden, cache = hidden_states(params, config, tokens, positions, cache)
        rows = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
        # transformers' `min_new_tokens` never takes the end token; neither does this.
        logits = unembed(params, config, rows).at[:, end].set(NEG_INF)
        return logits.argmax(-1).astype(jnp.int32), cache

    tokens = np.array([ids + [0] * (width - len(ids)) for ids in prompts], np.int32)
    cache = init_cache(config, len(prompts), width + NEW_TOKENS, jnp.float32)
    positions = padded_positions(jnp.array(lengths), width)
    chosen, cache = step(demo.params, tokens, positions, jnp.array(lengths - 1), cache)
    found = [chosen]
    for place in range(NEW_TOKENS - 1):
        positions = jnp.array(lengths + place)[:, None]
        zero = jnp.zeros(len(prompts), jnp.int32)
        chosen, cache = step(demo.params, chosen[:, None], positions, zero, cache)
        found.append(chosen)

    differing = []
    for prompt, ids, ours in zip(PROMPTS, prompts, np.stack(found, axis=1).tolist(), strict=True):
        with torch.no_grad():
            theirs = reference.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                do_sample=False,
                repetition_penalty=1.0,
            )[0, len(ids) :].tolist()
        if ours != theirs:
            differing.append((prompt, tokenizer.decode(ours), tokenizer.decode(theirs)))
    assert not differing


# Headers that the file does not bear out.


def patched(path: Path, change: Any) -> Path:
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


def after(data: bytes, name: str, skip: int = 0) -> int:
    return data.index(name.encode()) + len(name) + skip


@pytest.mark.parametrize(
    ("name", "skip", "size", "value", "message"),
    [
        ("llama.block_count", 4, 4, 2**27, r"llama\.block_count is 134217728; expected .* 4096"),
        ("llama.attention.head_count", 4, 4, 0, r"head_count is 0; expected a whole number from 1"),
        ("blk.0.attn_norm.weight", 0, 4, 9, "a tensor has 9 axes; expected 1 to 4"),
        ("blk.0.attn_norm.weight", 4, 8, 2**60, "a tensor has shape"),
        ("blk.0.attn_norm.weight", 12, 4, 30, "lies at byte"),  # another type of another size
        ("blk.0.attn_norm.weight", 12, 4, 77, "quantization type 77"),
        ("blk.0.attn_norm.weight", 16, 8, 31, r"lies at byte 31 of the data; expected"),
        ("blk.0.attn_norm.weight", 16, 8, 2**63, "lies at byte"),
    ],
)
def test_a_size_that_the_file_does_not_hold_is_named(
    tiny: Path, name: str, skip: int, size: int, value: int, message: str
) -> None:
    def change(data: bytearray) -> None:
        at = after(data, name, skip)
        data[at : at + size] = value.to_bytes(size, "little")

    with pytest.raises(InputError, match=message) as caught:
        load_model(patched(tiny, change))
    assert "\n" not in str(caught.value) and str(tiny) in str(caught.value)


@pytest.mark.parametrize("place", [8, 16])
def test_counts_beyond_the_file_are_refused(tiny: Path, place: int) -> None:
    def change(data: bytearray) -> None:
        data[place : place + 8] = (2**60).to_bytes(8, "little")

    with pytest.raises(InputError, match="do not fit into"):
        read_header(patched(tiny, change))


def test_bytes_after_the_last_tensor_are_refused(tiny: Path) -> None:
    with pytest.raises(InputError, match="the tensors end at byte"):
        read_header(patched(tiny, lambda data: data.extend(bytes(64))))


@pytest.mark.parametrize("alignment", [-32, 31, 0, True, [32], [32, 32]])
def test_the_alignment_is_a_power_of_two(tmp_path: Path, alignment: Any) -> None:
    hf = MODELS["llama"]
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    kinds = {bool: writer.add_bool, list: writer.add_array, int: writer.add_int32}
    kinds[type(alignment)]("general.alignment", alignment)
    writer.add_tensor("x", random_tensors(hf)["model.norm.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.data_alignment = 32
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match=r"general.alignment is .*expected a power of two"):
        read_header(path)
