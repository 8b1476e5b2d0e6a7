"""Checkpoints as people have them: heads, adapters, split files, and models of more than text."""

import dataclasses
import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from gguf_files import MODELS, NO_TOKENIZER, write_gguf
from gguf_files import random_tensors as gguf_tensors
from model_folders import LLAMA, Tensors, random_tensors, write_folder
from safetensors.numpy import save_file

from onceedit_jax.errors import InputError
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.weights import load_model
from onceedit_jax.storage import gguf_parts
from onceedit_jax.text.tokenizer import load_tokenizer

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"
GPT2 = {"model_type": "gpt2", "vocab_size": 40, "n_embd": 16, "n_layer": 2, "n_head": 4,
        "n_positions": 32}  # fmt: skip


def equal(one: Any, other: Any) -> bool:
    return bool(jax.tree.all(jax.tree.map(jnp.array_equal, one, other)))


# The head.


def flagged(folder: Path, flag: bool | None, tensors: Tensors, hf: dict[str, Any] = LLAMA) -> Path:
    hf = {**hf, "tie_word_embeddings": flag}
    if flag is None:
        del hf["tie_word_embeddings"]
    return write_folder(folder, hf, tensors)


def without_head(tensors: Tensors) -> Tensors:
    return {name: value for name, value in tensors.items() if name != HEAD}


def test_no_flag_and_no_head_is_tied_with_a_warning(tmp_path: Path) -> None:
    folder = flagged(tmp_path / "m", None, without_head(random_tensors(LLAMA)))
    with pytest.warns(UserWarning, match=r"no lm_head\.weight, and no tie_word_embeddings"):
        model = load_model(folder)
    assert model.config.tie_embeddings and "head" not in model.params
    written = export_hf(tmp_path / "out", model.params, model.config, model.hf_config)
    assert json.loads((written / "config.json").read_text())["tie_word_embeddings"] is True


def test_a_flag_of_false_and_no_head_is_refused_with_the_remedy(tmp_path: Path) -> None:
    folder = flagged(tmp_path / "m", False, without_head(random_tensors(LLAMA)))
    with pytest.raises(InputError, match=r"no lm_head\.weight.*set tie_word_embeddings to true"):
        load_model(folder)


@pytest.mark.parametrize("flag", [True, None])
def test_a_head_of_its_own_is_used_whatever_the_flag_says(tmp_path: Path, flag) -> None:
    tensors = random_tensors(LLAMA)
    folder = flagged(tmp_path / "m", flag, tensors)
    if flag:
        with pytest.warns(UserWarning, match="is not the embedding, though"):
            model = load_model(folder)
    else:
        model = load_model(folder)
    assert not model.config.tie_embeddings and model.hf_config.get("tie_word_embeddings") in (
        None,
        False,
    )
    np.testing.assert_array_equal(model.params["head"]["kernel"], tensors[HEAD].T)


@pytest.mark.parametrize("hf", [LLAMA, GPT2])
def test_a_copy_of_the_embedding_is_tied_without_a_word(tmp_path: Path, hf) -> None:
    tensors = random_tensors({**hf, "tie_word_embeddings": True})
    table = next(
        value for name, value in tensors.items() if name.endswith(("tokens.weight", "wte.weight"))
    )
    folder = flagged(tmp_path / "m", True, {**tensors, HEAD: table}, hf)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_model(folder).config.tie_embeddings


# Adapters.


def write_adapter(folder: Path, base: Any, factors: Tensors, **changes: Any) -> Path:
    folder.mkdir()
    values = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": 2, "lora_alpha": 6,
              "bias": "none", **changes}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(values))
    named = {f"base_model.model.{name}": value for name, value in factors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "base", LLAMA, random_tensors(LLAMA))


def factors_of(name: str, out: int, inputs: int, rank: int = 2) -> Tensors:
    rng = np.random.default_rng(3)
    a = rng.normal(size=(rank, inputs)).astype(np.float32)
    b = rng.normal(size=(out, rank)).astype(np.float32)
    return {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}


QUERY, DOWN = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.down_proj"


@pytest.mark.parametrize(("changes", "scale"), [({}, 3.0), ({"use_rslora": True}, 6 / 2**0.5)])
def test_an_adapter_is_its_base_with_the_product_added(tmp_path, base, changes, scale) -> None:
    factors = factors_of(QUERY, 16, 16) | factors_of(DOWN, 16, 24)
    folder = write_adapter(tmp_path / "lora", base, factors, **changes)
    merged = random_tensors(LLAMA)
    for name in (QUERY, DOWN):
        product = factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
        merged[f"{name}.weight"] = merged[f"{name}.weight"] + np.float32(scale) * product
    model, plain = load_model(folder), load_model(base)
    whole = load_model(write_folder(tmp_path / "merged", LLAMA, merged))
    close = jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), model.params, whole.params)
    assert jax.tree.all(close) and not equal(model.params, plain.params)
    assert (model.name, model.source) == ("lora", folder)
    assert model.content_hash not in (plain.content_hash, whole.content_hash)
    (folder / "config.json").write_text(json.dumps(LLAMA))  # some trainers leave it there
    assert equal(load_model(folder).params, model.params)
    half = load_model(folder, dtype="bfloat16").params
    assert jnp.allclose(half["embed"]["tokens"], whole.params["embed"]["tokens"], rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_modules": ["k_proj"]}, "which adapter_config.json leaves out"),
        ({"target_modules": ["proj"]}, "leaves out"),
        ({"exclude_modules": ["q_proj"]}, "leaves out"),
        ({"layers_to_transform": [0, 2]}, "leaves out"),
        ({"layers_to_transform": 0}, "leaves out"),
        ({"target_modules": 5}, "target_modules is 5"),
        ({"revision": "abc"}, "revision is 'abc'; expected a plain LoRA adapter"),
        ({"base_model_name_or_path": "x" * 3000}, "cannot be found"),
        ({"base_model_name_or_path": "~nobody-here/x"}, "cannot be found"),
    ],
)
def test_an_adapter_whose_config_says_otherwise_is_refused(tmp_path, base, changes, message):
    folder = write_adapter(tmp_path / "lora", base, factors_of(QUERY, 16, 16), **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)


def test_factors_that_are_none_are_refused(tmp_path, base):
    factors = factors_of(QUERY, 16, 16)
    a = f"{QUERY}.lora_A.weight"
    for number, (change, message) in enumerate(
        [
            ({a: np.zeros((), np.float32)}, r"shapes \[16, 2\] and \[\]"),
            ({a: factors[a].ravel()}, r"shapes \[16, 2\] and \[32\]"),
            ({f"{QUERY}.lora_A.default.weight": factors[a]}, "are one factor"),
        ]
    ):
        folder = write_adapter(tmp_path / f"lora{number}", base, {**factors, **change})
        with pytest.raises(InputError, match=message):
            load_model(folder)
    with pytest.raises(InputError, match="no factors; expected"):
        load_model(write_adapter(tmp_path / "none", base, {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": 1},
        {"layers_to_transform": []},
        {"target_modules": "all-linear", "exclude_modules": ["down_proj"], "revision": None},
    ],
)
def test_what_an_adapters_config_says_of_its_places_is_heeded(tmp_path, base, changes):
    factors = factors_of(QUERY, 16, 16)
    plain = load_model(write_adapter(tmp_path / "plain", base, factors))
    folder = write_adapter(tmp_path / "lora", base, factors, **changes)
    assert equal(load_model(folder).params, plain.params)


def test_an_adapter_of_transposed_matrices(tmp_path: Path) -> None:
    tensors = random_tensors(GPT2)
    base = write_folder(tmp_path / "base", GPT2, tensors)
    name = "transformer.h.0.attn.c_attn"
    factors = factors_of(name, 48, 16)
    folder = write_adapter(tmp_path / "lora", base, factors, fan_in_fan_out=True)
    product = 3 * factors[f"{name}.lora_B.weight"] @ factors[f"{name}.lora_A.weight"]
    changed = {**tensors, f"{name}.weight": tensors[f"{name}.weight"] + product.T}
    whole = load_model(write_folder(tmp_path / "merged", GPT2, changed))
    got = load_model(folder).params
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, atol=1e-5), got, whole.params))


@pytest.mark.parametrize(
    ("factors", "changes", "message"),
    [
        (factors_of(QUERY, 16, 16), {"peft_type": "IA3"}, "peft_type is 'IA3'"),
        (factors_of(QUERY, 16, 16), {"use_dora": True}, "use_dora is True"),
        (factors_of(QUERY, 16, 16), {"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        (factors_of(QUERY, 16, 16), {"alpha_pattern": {"q": 4}}, "alpha_pattern is"),
        (factors_of(QUERY, 16, 16), {"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        (factors_of(QUERY, 16, 16), {"base_model_name_or_path": None}, "no base_model_name"),
        (
            factors_of(QUERY, 16, 16),
            {"base_model_name_or_path": "./gone"},
            "'./gone', which cannot",
        ),
        (factors_of(QUERY, 17, 16), {}, r"shapes \[17, 2\] and \[2, 16\]; expected a product"),
        (
            factors_of("model.layers.7.mlp.up_proj", 24, 16),
            {},
            "layers.7.mlp.up_proj.weight, which",
        ),
        ({HEAD: np.ones((40, 16), np.float32)}, {}, "tensor base_model.model.lm_head.weight"),
        ({f"{QUERY}.lora_A.weight": np.ones((2, 16), np.float32)}, {}, "one factor of"),
    ],
)
def test_other_adapters_are_refused_with_the_command_that_merges(
    tmp_path, base, factors, changes, message
) -> None:
    folder = write_adapter(tmp_path / "lora", base, factors, **changes)
    with pytest.raises(InputError, match=message) as caught:
        load_model(folder)
    assert "merge_and_unload" in str(caught.value) and "\n" not in str(caught.value)


def test_an_adapter_of_an_adapter_or_without_weights_is_refused(tmp_path, base) -> None:
    one = write_adapter(tmp_path / "one", base, factors_of(QUERY, 16, 16))
    two = write_adapter(tmp_path / "two", one, factors_of(QUERY, 16, 16))
    with pytest.raises(InputError, match="another adapter"):
        load_model(two)
    (one / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="LoRA adapter without"):
        load_model(one)


def test_an_adapter_has_the_tokenizer_of_its_base(tmp_path, base, tiny_model) -> None:
    folder = write_adapter(tmp_path / "lora", base, factors_of(QUERY, 16, 16))
    (base / "config.json").unlink()
    tiny_model()[1].save(base)
    assert load_tokenizer(folder).encode("some text") == load_tokenizer(base).encode("some text")


# Quantized in ways that are not read.


def test_fp8_weights_are_named(tmp_path: Path, base: Path) -> None:
    tensors = random_tensors(LLAMA)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].astype(ml_dtypes.float8_e4m3fn)
    folder = write_folder(
        tmp_path / "fp8", LLAMA, {**tensors, f"{name}_scale_inv": np.ones(1, np.float32)}
    )
    with pytest.raises(InputError, match=rf"{re.escape(name)} has dtype F8_E4M3.*FP8 weights are"):
        load_model(folder)
    (base / "config.json").write_text(
        json.dumps({**LLAMA, "quantization_config": {"quant_method": "fp8"}})
    )
    with pytest.raises(InputError, match="quantization_config is 'fp8'"):
        load_model(base)


# Split GGUF files.


@pytest.fixture
def split(tmp_path: Path) -> list[Path]:
    hf = MODELS["llama"]
    write_gguf(tmp_path / "m.gguf", hf, gguf_tensors(hf), most_in_part=8)
    return sorted(tmp_path.glob("m-*.gguf"))


def test_a_split_gguf_is_the_model_in_one_file(tmp_path: Path, split: list[Path]) -> None:
    hf = MODELS["llama"]
    whole = load_model(write_gguf(tmp_path / "whole.gguf", hf, gguf_tensors(hf)))
    assert len(split) > 2
    for part in (split[0], split[-1]):
        model = load_model(part)
        assert model.config == whole.config and equal(model.params, whole.params)
        assert model.content_hash == load_model(split[0]).content_hash


def test_a_missing_renamed_or_foreign_part_is_named(tmp_path: Path, split: list[Path]) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(split[0], alone)
    with pytest.raises(InputError, match=rf"split GGUF of {len(split)} parts, of which m-00002"):
        load_model(alone / split[0].name)
    shutil.copy(split[0], alone / "renamed.gguf")
    with pytest.raises(InputError, match=f"one of {len(split)} parts of a split GGUF"):
        load_model(alone / "renamed.gguf")
    shutil.copy(split[2], split[1])
    with pytest.raises(InputError, match=r"split\.no is 2; expected 1"):
        load_model(split[0])


def test_a_later_part_that_says_other_things_is_refused(split: list[Path], monkeypatch) -> None:
    read = gguf_parts.read_header

    def changed(part: Path) -> Any:
        header = read(part)
        more = {"general.architecture": "gemma3"} if part == split[1] else {}
        return dataclasses.replace(header, metadata={**header.metadata, **more})

    monkeypatch.setattr(gguf_parts, "read_header", changed)
    with pytest.raises(InputError, match=r"00002-of.*architecture is 'gemma3'; expected 'llama'"):
        load_model(split[0])


@pytest.mark.parametrize("count", [[1, 2], "2", -1, 2.5])
def test_a_count_of_parts_that_is_no_number_is_named(tmp_path: Path, count: Any) -> None:
    hf = MODELS["llama"]
    kinds = {int: "add_int32", float: "add_float32", str: "add_string", list: "add_array"}

    class Odd:
        def add_to(self, writer: Any) -> None:
            getattr(writer, kinds[type(count)])("split.count", count)
            NO_TOKENIZER.add_to(writer)

    path = write_gguf(tmp_path / "m.gguf", hf, gguf_tensors(hf), tokenizer=Odd())
    with pytest.raises(InputError, match=r"m\.gguf: metadata split\.count"):
        load_model(path)


# The text part of a model of more.

TEXT = {"model_type": "gemma3_text", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 64, "sliding_window": 8}  # fmt: skip


@pytest.mark.parametrize("inside", ["language_model.model.", "model.language_model."])
def test_the_text_part_of_gemma3_is_read(tmp_path: Path, inside: str) -> None:
    tensors = random_tensors(TEXT)
    start = "model." if inside.startswith("model.") else ""
    named = {inside + name.removeprefix("model."): value for name, value in tensors.items()}
    beside = (
        "vision_tower.vision_model.head.weight",
        "multi_modal_projector.mm_soft_emb_norm.weight",
    )
    others = {start + name: np.ones(3, np.float32) for name in beside}
    whole = {"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
             "text_config": TEXT, "vision_config": {}, "eos_token_id": [1, 2]}  # fmt: skip
    model = load_model(write_folder(tmp_path / "whole", whole, {**named, **others}))
    alone = load_model(write_folder(tmp_path / "alone", TEXT, tensors))
    assert model.config == alone.config and equal(model.params, alone.params)
    export_hf(tmp_path / "out", model.params, model.config, model.hf_config)
    assert load_model(tmp_path / "out").config == model.config
    strange = {**named, f"{start}audio_tower.x": np.ones(3, np.float32)}
    with pytest.raises(InputError, match=r"unknown tensor .*audio_tower\.x"):
        load_model(write_folder(tmp_path / "strange", whole, strange))


def test_gemma3_as_transformers_writes_it(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    hf = transformers.Gemma3Config(
        text_config={**TEXT, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2},
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=39,
        boi_token_index=37,
        eoi_token_index=38,
    )
    torch.manual_seed(0)
    theirs = transformers.Gemma3ForConditionalGeneration(hf).eval()
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    tokens = np.arange(3, 12)[None]
    with torch.no_grad():
        expected = theirs(torch.as_tensor(tokens)).logits.numpy()
    from onceedit_jax.models.decoder import forward

    got, _ = forward(model.params, model.config, tokens, np.arange(9, dtype=np.int32)[None])
    np.testing.assert_allclose(np.asarray(got), expected, atol=1e-4 * np.ptp(expected))


def test_the_published_text_part_leaves_out_what_is_usual() -> None:
    from onceedit_jax.models.families import config_from_hf, text_config

    inside = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text",
              "num_hidden_layers": 34, "sliding_window": 1024,
              "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}  # fmt: skip
    whole = {"model_type": "gemma3", "text_config": inside, "vision_config": {}}
    config = config_from_hf(text_config(whole))
    shape = (config.vocab_size, config.num_heads, config.num_kv_heads, config.head_dim)
    assert shape == (262_208, 8, 4, 256) and config.tie_embeddings
    assert (config.rope.factor, config.rope.theta, config.rope.local_theta) == (8.0, 1e6, 1e4)
    with pytest.raises(InputError, match="text_config is None"):
        text_config({"model_type": "gemma3"})
