"""GGUF files of tiny random models, written by the format's own package."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from onceedit_jax.models.families import checkpoint_tensors, config_from_hf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Tensors = dict[str, np.ndarray]
ROPE = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 50000.0,
    "tie_word_embeddings": True,
}
GEMMA = {
    **ROPE,
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 8,
    "num_hidden_layers": 7,
    "layer_types": [*["sliding_attention"] * 5, "full_attention", "sliding_attention"],
    "rope_local_base_freq": 10000.0,
    "query_pre_attn_scalar": 8,
    "attention_bias": False,
}
GPT2 = {"vocab_size": 50, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "n_inner": 64}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **ROPE, "tie_word_embeddings": False},
    "llama, tied": {"model_type": "llama", **ROPE},
    "mistral": {"model_type": "mistral", **ROPE, "sliding_window": 16},
    "qwen2": {"model_type": "qwen2", **ROPE},
    "qwen3": {"model_type": "qwen3", **ROPE},
    "gemma3": {"model_type": "gemma3_text", **GEMMA},
    "gpt2": {"model_type": "gpt2", **GPT2},
}
OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
}
INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


class Metadata:
    """The tokenizer part of a GGUF file, to be changed by a test before it is written."""

    def __init__(self, model: str, tokens: Sequence[str], types: Sequence[int], **more: Any):
        typed = {"token_type": list(types)} if types else {}
        self.facts = {"model": model, "tokens": list(tokens), **typed, **more}
        self.more: dict[str, Any] = {}  # under their full names

    def add_to(self, writer: gguf.GGUFWriter) -> None:
        """Add what is known to the metadata of a file."""
        facts = {f"tokenizer.ggml.{key}": value for key, value in self.facts.items()}
        for name, value in {**facts, **self.more}.items():
            match value:
                case bool():
                    writer.add_bool(name, value)
                case int():
                    writer.add_uint32(name, value)
                case str():
                    writer.add_string(name, value)
                case None:
                    pass
                case _:
                    writer.add_array(name, value)

    def write(self, path: Path) -> Path:
        """A file with a tokenizer and no tensors."""
        writer = gguf.GGUFWriter(str(path), "llama")
        self.add_to(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path


def describe(hf: Any, **more: Any) -> Metadata:
    """What a GGUF file would say of a fast tokenizer."""
    facts = json.loads(hf.backend_tokenizer.to_str())
    ids = hf.get_vocab()
    tokens = sorted(ids, key=ids.__getitem__)
    marked = {
        t["content"]: CONTROL if t["special"] else USER_DEFINED for t in facts["added_tokens"]
    }
    types = [marked.get(t, NORMAL) for t in tokens]
    special = {"bos_token_id": hf.bos_token_id, "eos_token_id": hf.eos_token_id}
    if facts["model"]["byte_fallback"]:
        types = [BYTE if t == NORMAL and len(s) == 6 and s[:3] == "<0x" else t
                 for s, t in zip(tokens, types, strict=True)]  # fmt: skip
        ranks: dict[str, int] = {}
        for left, right in facts["model"]["merges"]:
            ranks.setdefault(left + right, len(ranks))
        scores = [-float(ranks.get(t, len(ranks))) for t in tokens]
        special |= {"unknown_token_id": hf.unk_token_id}
        return Metadata("llama", tokens, types, scores=scores, **special, **more)
    merges = [" ".join(pair) for pair in facts["model"]["merges"]]
    return Metadata("gpt2", tokens, types, merges=merges, **special, **more)


NO_TOKENIZER = Metadata(
    "llama", [f"t{i}" for i in range(50)], (), scores=[0.5] * 50, eos_token_id=3
)


def gguf_name(name: str, family: str) -> str:
    stem, _, kind = name.rpartition(".")
    if stem in OUTER:
        return f"{OUTER[stem]}.{kind}"
    _, _, layer, inner = stem.split(".", 3)
    if inner == "post_attention_layernorm":
        inner = "post_attention_norm" if family == "gemma3_text" else "ffn_norm"
    return f"blk.{layer}.{INNER.get(inner, inner)}.{kind}"


def converted(name: str, value: np.ndarray, hf: dict[str, Any]) -> np.ndarray:
    """What a converter to GGUF does to a tensor."""
    family = hf["model_type"]
    if family in ("llama", "mistral") and (".q_proj." in name or ".k_proj." in name):
        half = hf["head_dim"] // 2
        rows = np.arange(len(value)).reshape(-1, 2, half)  # head, half of the head, place in it
        return value[rows.transpose(0, 2, 1).reshape(-1)]
    if family == "gemma3_text" and name.endswith("norm.weight"):
        return value + np.float32(1)
    if family == "gpt2" and value.ndim == 2 and ".h." in name:
        return value.T
    return value


def random_tensors(hf: dict[str, Any]) -> Tensors:
    rng = np.random.default_rng(1)
    # Multiples of 1/64 near 0, so that adding one and taking it away again is exact.
    return {
        name: (rng.integers(-60, 60, tensor.shape) / 64).astype(np.float32)
        for name, tensor in checkpoint_tensors(config_from_hf(hf)).items()
    }


def write_gguf(
    path: Path,
    hf: dict[str, Any],
    tensors: Tensors,
    *,
    metadata: dict[str, Any] | None = None,
    extra: Tensors | None = None,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
    drop: tuple[str, ...] = (),
    tokenizer: Metadata | None = None,
    most_in_part: int = 0,
) -> Path:
    family = hf["model_type"]
    architecture = {"mistral": "llama", "gemma3_text": "gemma3"}.get(family, family)
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=most_in_part)
    values: dict[str, Any] = {
        "embedding_length": hf.get("hidden_size", hf.get("n_embd")),
        "block_count": hf.get("num_hidden_layers", hf.get("n_layer")),
        "feed_forward_length": hf.get("intermediate_size", hf.get("n_inner")),
        "context_length": hf.get("max_position_embeddings", hf.get("n_positions")),
        "attention.head_count": hf.get("num_attention_heads", hf.get("n_head")),
    }
    if family == "gpt2":
        values["attention.layer_norm_epsilon"] = 1e-5
    else:
        values |= {
            "attention.head_count_kv": hf["num_key_value_heads"],
            "attention.key_length": hf["head_dim"],
            "attention.layer_norm_rms_epsilon": hf["rms_norm_eps"],
            "rope.freq_base": hf["rope_theta"],
        }
    if "sliding_window" in hf:
        values["attention.sliding_window"] = hf["sliding_window"]
    values |= metadata or {}
    for key, value in values.items():
        if key in drop:
            continue
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{architecture}.{key}", value)
    (tokenizer or NO_TOKENIZER).add_to(writer)
    stored = {gguf_name(name, family): converted(name, v, hf) for name, v in tensors.items()}
    for name, value in {**stored, **(extra or {})}.items():
        if name in drop:
            continue
        value = np.ascontiguousarray(value)
        if kind := (kinds or {}).get(name):
            packed = gguf.quants.quantize(value, kind)
            writer.add_tensor(name, packed, raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
