"""What makes a config.json unreadable whatever its family: settings that would be ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.storage.schema import shown

#: The kinds of rope, and the numbers that each needs.
ROPE_NUMBERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}
#: Settings that change what models of some families compute, and that no reader here knows.
_UNKNOWN: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(("attn_logit_softcapping", "final_logit_softcapping", "clip_qkv"), ()),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), (0,)),
    **dict.fromkeys(("logit_scale", "logits_scaling", "embedding_multiplier"), (1,)),
    **dict.fromkeys(("residual_multiplier", "attention_multiplier", "lm_head_multiplier"), (1,)),
    **dict.fromkeys(("use_mrope", "alibi"), (False,)),
    **dict.fromkeys(("compression_config", "quantization"), ({},)),
}


def refuse(key: str, value: object, expected: object) -> InputError:
    """The error for a setting that is not supported."""
    return InputError(
        f"config.json: {key} is {value!r}; expected {expected}: this model is not supported, "
        "choose another"
    )


def expect(hf: Mapping[str, Any], key: str, *allowed: object) -> None:
    """Refuse an unsupported setting.

    Raises:
        InputError: `key` is present, and its value is not one of `allowed`.
    """
    if hf.get(key) not in (None, *allowed):
        raise refuse(key, hf[key], " or ".join(map(repr, allowed)))


def check_readable(hf: Mapping[str, Any]) -> None:
    """Refuse quantized weights and other kinds of rope by their own names, before their settings.

    Raises:
        InputError: The name of the quantization, or of the kind of rope.
    """
    if isinstance(quantized := hf.get("quantization_config"), Mapping):
        raise InputError(
            f"config.json: quantization_config is {shown(quantized.get('quant_method'))}; expected "
            "none: weights quantized in this way are not read; give the unquantized checkpoint, or "
            "a GGUF file"
        )
    for key, harmless in _UNKNOWN.items():
        expect(hf, key, *harmless)
    for key in ("rope_scaling", "rope_parameters"):
        rope = hf.get(key)
        kind = rope_kind(rope) if isinstance(rope, Mapping) else "default"
        if isinstance(kind, str) and kind not in ROPE_NUMBERS:
            raise refuse(f"{key}.rope_type", kind, "one of " + ", ".join(ROPE_NUMBERS))


def rope_kind(parameters: Mapping[str, Any]) -> Any:
    """The kind of rope that a dict of settings names."""
    return parameters.get("rope_type", parameters.get("type")) or "default"
