"""GGUF models as Hugging Face models: an equivalent `config.json`, and tensors by their HF names.

A GGUF file is read as if it were a Hugging Face folder, so the table of families remains the only
description of a model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import RANGES, ROPE_RANGES
from onceedit_jax.models.families import FAMILIES
from onceedit_jax.models.gguf_rope import ROPE_FREQS, rotary_config
from onceedit_jax.models.hf_schema import SCHEMA
from onceedit_jax.models.tensors import Box
from onceedit_jax.storage.gguf import GGUFFile, dequantize
from onceedit_jax.storage.schema import (
    AnyOf,
    Flag,
    Integer,
    Kind,
    Number,
    Numbers,
    Record,
    Text,
    check,
    shown,
)
from onceedit_jax.types import HostArray

_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_SETTINGS = {
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "context_length": "max_position_embeddings",
}
_RMS = {**_SETTINGS, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}


@dataclass(frozen=True)
class Architecture:
    """How the names and values of a GGUF architecture translate to Hugging Face.

    Attributes:
        model_type: the HF family.
        settings: metadata key (after `architecture.`) to HF configuration key; all are required.
        constants: HF configuration values that a GGUF file does not contain.
        outer: GGUF to HF name of the tensors outside the layers, without their suffix.
        layer: GGUF to HF name of a layer's tensors.
        layer_prefix: HF prefix of the layers.
        permuted: GGUF names whose rows were reordered for ggml's interleaved rope.
        transposed: GGUF names of matrices that are [in, out] in HF and [out, in] in GGUF.
        norm_offset: value that the converter added to the norm weights.
    """

    model_type: str
    settings: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    outer: dict[str, str] = field(default_factory=lambda: _OUTER)
    layer: dict[str, str] = field(default_factory=lambda: _LAYER)
    layer_prefix: str = "model.layers"
    permuted: tuple[str, ...] = ()
    transposed: tuple[str, ...] = ()
    norm_offset: float = 0.0


_POST_NORM = {**_LAYER, "ffn_norm": "post_attention_layernorm"}
ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        "llama",
        _RMS,
        constants={"hidden_act": "silu"},
        layer=_POST_NORM,
        permuted=("attn_q", "attn_k"),
    ),
    "qwen2": Architecture(
        "qwen2",
        _RMS,
        constants={"hidden_act": "silu", "use_sliding_window": False},
        layer=_POST_NORM,
    ),
    "qwen3": Architecture(
        "qwen3",
        _RMS,
        constants={"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
        layer=_POST_NORM,
    ),
    "gemma3": Architecture(
        "gemma3_text",
        {**_RMS, "attention.sliding_window": "sliding_window"},
        constants={"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
        layer={
            **_LAYER,
            "post_attention_norm": "post_attention_layernorm",
            "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm",
        },
        norm_offset=1.0,
    ),
    "gpt2": Architecture(
        "gpt2",
        {
            "embedding_length": "n_embd",
            "block_count": "n_layer",
            "feed_forward_length": "n_inner",
            "attention.head_count": "n_head",
            "context_length": "n_positions",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        constants={"activation_function": "gelu_new"},
        outer={
            "token_embd": "transformer.wte",
            "position_embd": "transformer.wpe",
            "output_norm": "transformer.ln_f",
            "output": "lm_head",
        },
        layer={
            "attn_norm": "ln_1",
            "attn_qkv": "attn.c_attn",
            "attn_output": "attn.c_proj",
            "ffn_norm": "ln_2",
            "ffn_up": "mlp.c_fc",
            "ffn_down": "mlp.c_proj",
        },
        layer_prefix="transformer.h",
        transposed=("attn_qkv", "attn_output", "ffn_up", "ffn_down"),
    ),
}
# Metadata for features that the decoder does not implement.
_REFUSED = (
    "expert_count", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
    "embedding_scale", "residual_scale", "attention.scale", "attention.clamp_kqv",
    "attention.max_alibi_bias",
)  # fmt: skip
#: Metadata that need not be there, by the key of config.json whose range they share.
_OPTIONAL = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "rope.dimension_count": "rotary_dim",
    "rope.freq_base": "rope_theta",
    "rope.freq_base_swa": "rope_theta",
}
_OTHERS: dict[str, Kind] = {
    "rope.scaling.type": Text(most=64),
    "rope.scaling.factor": ROPE_RANGES["factor"],
    "attention.sliding_window": Integer(0, RANGES["sliding_window"].kind.most),
    "attention.sliding_window_pattern": AnyOf((RANGES["num_layers"], Numbers("b"))),
    "rope.scale_linear": ROPE_RANGES["factor"],
    "attention.causal": Flag(),
    **dict.fromkeys(_REFUSED, Number()),
}


def _architecture(file: GGUFFile) -> Architecture:
    if file.architecture not in ARCHITECTURES:
        raise InputError(
            f"{file.path}: unknown architecture {shown(file.architecture)}; supported in "
            f"GGUF files are {', '.join(ARCHITECTURES)}; give the Hugging Face folder of the "
            "model instead"
        )
    return ARCHITECTURES[file.architecture]


def equivalent_config(file: GGUFFile) -> dict[str, Any]:
    """The values of `config.json` in a Hugging Face folder of the same model.

    Raises:
        InputError: an unknown architecture, missing metadata, or a variant that the decoder does
            not support (experts, capped logits, YaRN).
    """
    architecture = _architecture(file)

    def get(key: str, default: Any = None) -> Any:
        return file.metadata.get(f"{file.architecture}.{key}", default)

    _check_metadata(file, architecture)
    if get("attention.causal") is False:
        raise InputError(
            f"{file.path}: {file.architecture}.attention.causal is false; expected true: models "
            "that read ahead are not supported; choose another model"
        )
    for key in _REFUSED:
        if get(key):
            raise InputError(
                f"{file.path}: {file.architecture}.{key} is {get(key)}; expected none: models with "
                "this setting are not supported; choose another model"
            )
    config: dict[str, Any] = {
        "architectures": [FAMILIES[architecture.model_type].auto_class],
        "model_type": architecture.model_type,
        **architecture.constants,
    }
    for key, name in architecture.settings.items():
        value = get(key)
        if value is None:
            raise InputError(
                f"{file.path}: metadata {file.architecture}.{key} is {value}; expected one number: "
                "the file is incomplete, or this variant is not supported; choose another file"
            )
        config[name] = value
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None:
        raise InputError(
            f"{file.path}: missing tensor token_embd.weight; expected the whole model in one file; "
            "merge a split GGUF, or fetch the file again"
        )
    config["vocab_size"] = embedding.shape[0]
    config["tie_word_embeddings"] = "output.weight" not in file.tensors
    for key in ("bos", "eos", "padding"):
        token = file.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None:
            config["pad_token_id" if key == "padding" else f"{key}_token_id"] = token
    if architecture.model_type != "gpt2":
        config |= rotary_config(file, config, get)
    if architecture.model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
        if window := get("attention.sliding_window"):
            config |= {
                "model_type": "mistral",
                "architectures": ["MistralForCausalLM"],
                "sliding_window": window,
            }
    if architecture.model_type == "gemma3_text":
        config |= _gemma3_config(config, get)
    return config


def _check_metadata(file: GGUFFile, architecture: Architecture) -> None:
    """Hold the metadata against the ranges of the keys of config.json that they stand for."""
    names = {**architecture.settings, **_OPTIONAL}
    kinds = {key: SCHEMA.fields[name] for key, name in names.items()} | _OTHERS
    check(
        Record({f"{file.architecture}.{key}": kind for key, kind in kinds.items()}),
        file.metadata,
        file=f"{file.path}: metadata",
        remedy="the file is damaged, or this variant is not supported; choose another file",
    )


def _gemma3_config(config: dict[str, Any], get: Any) -> dict[str, Any]:
    layers = config["num_hidden_layers"]
    pattern = get("attention.sliding_window_pattern", 6)
    if isinstance(pattern, int):
        slides = [(index + 1) % pattern != 0 for index in range(layers)]
    else:
        slides = [bool(flag) for flag in pattern]
    # Only the 27B model scales its queries by hidden size / heads.
    largest = layers == 62
    return {
        "layer_types": ["sliding_attention" if slide else "full_attention" for slide in slides],
        "rope_local_base_freq": get("rope.freq_base_swa", 10000.0),
        "query_pre_attn_scalar": config["hidden_size"] // config["num_attention_heads"]
        if largest
        else config["head_dim"],
    }


class GGUFSource:
    """The tensors of a GGUF file with the names, values and shapes of Hugging Face."""

    def __init__(self, file: GGUFFile) -> None:
        self.path, self._file = file.path, file
        self._architecture = _architecture(file)
        attention = f"{file.architecture}.attention"
        self._heads = file.metadata[f"{attention}.head_count"]
        self._kv_heads = file.metadata.get(f"{attention}.head_count_kv", self._heads)
        self._names = {self._hf_name(name): name for name in file.tensors if name != ROPE_FREQS}

    def names(self) -> Iterable[str]:
        """HF names; tensors without one have the name in the file."""
        return self._names.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the tensor in HF."""
        shape = self._file.tensors[self._names[name]].shape
        return shape[::-1] if self._is_transposed(name) else shape

    def read(self, name: str, out: HostArray) -> None:
        """Fill `out` with the dequantized values, without the changes that the converter made."""
        stored = self._names[name]
        is_norm = stored.endswith("norm.weight")
        if self._is_transposed(name):
            values = np.empty(out.shape[::-1], out.dtype)
            dequantize(self._file, stored, values)
            out[...] = values.T
            return
        dequantize(
            self._file, stored, out, minus=self._architecture.norm_offset if is_norm else 0.0
        )
        if self._stem(name) in self._architecture.permuted:
            heads = self._kv_heads if self._stem(name) == "attn_k" else self._heads
            # ggml rotates neighbours (2i, 2i + 1), HF rotates halves (i, i + K / 2).
            pairs = out.reshape(heads, len(out) // heads // 2, 2, *out.shape[1:])
            out[...] = pairs.swapaxes(1, 2).copy().reshape(out.shape)

    def read_box(self, name: str, box: Box, out: HostArray) -> None:
        """Fill `out` with a box of the tensor; the whole tensor is dequantized for it."""
        whole = np.empty(self.shape(name), out.dtype)
        self.read(name, whole)
        out[...] = whole[box]

    def _stem(self, name: str) -> str:
        """The GGUF name of a layer's tensor (`attn_q`); empty outside the layers."""
        stored = self._names[name]
        return stored.split(".")[2] if stored.startswith("blk.") else ""

    def _is_transposed(self, name: str) -> bool:
        return name.endswith(".weight") and self._stem(name) in self._architecture.transposed

    def _hf_name(self, name: str) -> str:
        if match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name):
            index, stem, kind = match.groups()
            if stem in self._architecture.layer:
                prefix = self._architecture.layer_prefix
                return f"{prefix}.{index}.{self._architecture.layer[stem]}.{kind}"
        stem, _, kind = name.rpartition(".")
        if stem in self._architecture.outer:
            return f"{self._architecture.outer[stem]}.{kind}"
        return name
