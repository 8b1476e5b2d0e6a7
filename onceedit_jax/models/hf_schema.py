"""The schema of config.json: what each key that is read must be, for all families.

The ranges are those of `ModelConfig`; null stands for a key that is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import RANGES, ROPE_RANGES
from onceedit_jax.storage.schema import (
    AnyOf,
    Flag,
    Integer,
    Kind,
    ListOf,
    Maybe,
    Mismatch,
    Number,
    Record,
    Text,
)

REMEDY = "fetch the file again, or choose another model"

#: config.json's keys by the field of `ModelConfig` whose range they share.
_SIZES = {
    "vocab_size": ("vocab_size",),
    "hidden_size": ("hidden_size", "n_embd"),
    "num_layers": ("num_hidden_layers", "n_layer"),
    "num_heads": ("num_attention_heads", "n_head"),
    "num_kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "mlp_size": ("intermediate_size", "n_inner"),
    "max_positions": ("max_position_embeddings", "n_positions"),
    "norm_eps": ("rms_norm_eps", "layer_norm_epsilon"),
    "sliding_window": ("sliding_window",),
}
_FLAGS = (
    "add_cross_attention", "attention_bias", "mlp_bias", "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights", "tie_word_embeddings", "use_bidirectional_attention",
    "use_sliding_window",
)  # fmt: skip
_ROPE: dict[str, Kind] = {
    "rope_type": Text(most=64),
    "type": Text(most=64),
    "rope_theta": ROPE_RANGES["theta"],
    "factor": ROPE_RANGES["factor"],
    "low_freq_factor": ROPE_RANGES["low_freq_factor"],
    "high_freq_factor": ROPE_RANGES["high_freq_factor"],
    "original_max_position_embeddings": ROPE_RANGES["original_max_positions"],
    "partial_rotary_factor": Number(0, 1),
}
# A setting that is not read would be ignored in silence.
_NULLABLE = {key: Maybe(kind) for key, kind in _ROPE.items()}
_ONE_ROPE = Record(_NULLABLE, closed=True)
_EACH = dict.fromkeys(("full_attention", "sliding_attention"), Maybe(_ONE_ROPE))
_LAYER_KIND = Text(most=64)
TOKEN_IDS = Maybe(AnyOf((Integer(0, 2**31), ListOf(Integer(0, 2**31), most=4096))))

SCHEMA = Record(
    {
        **{key: Maybe(RANGES[name]) for name, keys in _SIZES.items() for key in keys},
        **dict.fromkeys(_FLAGS, Maybe(Flag())),
        "model_type": Text(most=64),
        "architectures": Maybe(ListOf(Text(most=256), most=64)),
        "activation_function": Maybe(Text(most=64)),
        "hidden_act": Maybe(Text(most=64)),
        "hidden_activation": Maybe(Text(most=64)),
        "layer_types": Maybe(ListOf(_LAYER_KIND, most=RANGES["num_layers"].most)),
        "max_window_layers": Maybe(Integer(0, 2**31)),
        "no_rope_layers": Maybe(ListOf(Integer(0, 1), most=RANGES["num_layers"].most)),
        "no_rope_layer_interval": Maybe(RANGES["num_layers"]),
        "partial_rotary_factor": Maybe(Number(0, 1)),
        "query_pre_attn_scalar": Maybe(Number(1e-6, 1e6)),
        "quantization_config": Maybe(Record()),
        "rope_local_base_freq": Maybe(ROPE_RANGES["theta"]),
        "rope_theta": Maybe(ROPE_RANGES["theta"]),
        "rotary_dim": Maybe(ROPE_RANGES["dim"]),
        "sliding_window_pattern": Maybe(RANGES["num_layers"]),
        "_sliding_window_pattern": Maybe(RANGES["num_layers"]),
        "rope_scaling": Maybe(_ONE_ROPE),
        "rope_parameters": Maybe(Record({**_NULLABLE, **_EACH}, closed=True)),
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), TOKEN_IDS),
    }
)


def check_config(hf: Mapping[str, Any]) -> None:
    """Check the values of a config.json before any of them is used.

    Raises:
        InputError: A value is of the wrong type, not finite, or out of range; the message has the
            key, its value and the expected value.
    """
    try:
        SCHEMA.check(hf, "")
    except Mismatch as error:
        raise InputError(f"config.json: {error}: {REMEDY}") from None
