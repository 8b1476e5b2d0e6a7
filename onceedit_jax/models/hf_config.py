"""Read Hugging Face config.json files, written by transformers 4 or 5: one reader for each family.

Each reader takes the values of the file, which `hf_schema` has checked, and the family's name, and
returns a `ModelConfig`. It raises `InputError` with the key, its value and the expected value if a
setting is not supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.models.config import Activation, ModelConfig, Rope
from onceedit_jax.models.hf_readable import ROPE_NUMBERS, expect, refuse, rope_kind
from onceedit_jax.models.hf_schema import REMEDY

_ACTIVATION_NAMES: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


def _need(hf: Mapping[str, Any], key: str) -> int:
    """A size without a default."""
    value = hf.get(key)
    if value is None:
        raise InputError(f"config.json: {key} is None; expected a positive integer: {REMEDY}")
    return int(value)


def _get(hf: Mapping[str, Any], key: str, default: Any) -> Any:
    """A value; the default if it is absent or null."""
    value = hf.get(key)
    return default if value is None else value


def _number(hf: Mapping[str, Any], key: str, default: float) -> float:
    """A number; the default if it is absent or null."""
    return float(_get(hf, key, default))


def _activation(hf: Mapping[str, Any], key: str, default: str) -> Activation:
    name = _get(hf, key, default)
    if name not in _ACTIVATION_NAMES:
        raise refuse(key, name, "one of " + ", ".join(_ACTIVATION_NAMES))
    return _ACTIVATION_NAMES[name]


def _rope(parameters: Mapping[str, Any], where: str, theta: float, **fields: Any) -> Rope:
    """Rope from a `rope_scaling` dict (transformers 4) or a `rope_parameters` dict (5).

    Args:
        parameters: The dict.
        where: Its key, for errors.
        theta: The base, if the dict has none.
        **fields: Further fields of `Rope`.
    """
    for key, value in parameters.items():
        if isinstance(value, dict):
            raise refuse(f"{where}.{key}", value, "one rope for all layers")
    kind = rope_kind(parameters)
    if parameters.get("type") not in (None, kind):
        raise refuse(f"{where}.type", parameters["type"], f"{kind!r}, as rope_type")
    theta = _number(parameters, "rope_theta", theta)
    if parameters.get("partial_rotary_factor") not in (None, 1, 1.0):
        raise refuse(f"{where}.partial_rotary_factor", parameters["partial_rotary_factor"], 1.0)
    if kind not in ROPE_NUMBERS:
        raise refuse(f"{where}.rope_type", kind, "one of " + ", ".join(ROPE_NUMBERS))
    # With another kind, transformers writes no factor, or 1.
    if kind == "default" and parameters.get("factor") not in (None, 1):
        raise refuse(f"{where}.factor", parameters["factor"], f"a {where}.rope_type beside it")
    missing = [key for key in ROPE_NUMBERS[kind] if parameters.get(key) is None]
    if missing:
        raise InputError(
            f"config.json: {where} of type {kind} has no number {missing[0]}; "
            f"expected {', '.join(ROPE_NUMBERS[kind])}: {REMEDY}"
        )
    if kind != "default":
        fields |= {"scaling": kind, "factor": float(parameters["factor"])}
    if kind == "llama3":
        fields |= {
            "low_freq_factor": float(parameters["low_freq_factor"]),
            "high_freq_factor": float(parameters["high_freq_factor"]),
            "original_max_positions": int(parameters["original_max_position_embeddings"]),
        }
    return Rope(theta=theta, **fields)


def _sliding(hf: Mapping[str, Any], default: Sequence[bool]) -> tuple[bool, ...]:
    """Which layers have a sliding window: from `layer_types`, or else `default`."""
    kinds = hf.get("layer_types")
    if kinds is None:
        return tuple(default)
    names = {"full_attention": False, "sliding_attention": True}
    for kind in kinds:
        if kind not in names:
            raise refuse("layer_types", kind, "one of " + ", ".join(names))
    return tuple(names[kind] for kind in kinds)


def _nowhere_sliding(hf: Mapping[str, Any]) -> None:
    """Refuse sliding windows in a family that has none."""
    if any(_sliding(hf, ())):
        raise refuse("layer_types", "sliding_attention", "'full_attention' in all layers")


def _llama_like(hf: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The fields that all families share but gpt2 and gptj."""
    hidden, heads = _need(hf, "hidden_size"), _need(hf, "num_attention_heads")
    vocab = _need(hf, "vocab_size")
    return {
        "family": family,
        "vocab_size": vocab,
        "num_tokens": vocab,
        "hidden_size": hidden,
        "num_layers": _need(hf, "num_hidden_layers"),
        "num_heads": heads,
        "num_kv_heads": _get(hf, "num_key_value_heads", heads),
        "head_dim": _get(hf, "head_dim", hidden // heads),
        "mlp_size": _need(hf, "intermediate_size"),
        "max_positions": _get(hf, "max_position_embeddings", 2048),
        "norm_eps": _number(hf, "rms_norm_eps", 1e-6),
        "tie_embeddings": bool(_get(hf, "tie_word_embeddings", False)),
    }


def _plain_rope(
    hf: Mapping[str, Any], rotated: int, max_positions: int, *, theta: float = 10_000.0
) -> Rope:
    """One rope for all layers; configs of transformers 5 have all its settings in one dict.

    Args:
        hf: The values of the file.
        rotated: Rotated dimensions of each head.
        max_positions: The model's context, which scaling starts from if nothing else is said.
        theta: The base where the file has none.
    """
    key = "rope_parameters" if hf.get("rope_parameters") else "rope_scaling"
    if key == "rope_parameters":
        for name, value in (hf.get("rope_scaling") or {}).items():
            if value != (
                rope_kind(hf[key]) if name in ("type", "rope_type") else hf[key].get(name)
            ):
                raise refuse(f"rope_scaling.{name}", value, "what rope_parameters says")
    parameters = {"original_max_position_embeddings": max_positions, **(hf.get(key) or {})}
    if "partial_rotary_factor" in hf:
        parameters.setdefault("partial_rotary_factor", hf["partial_rotary_factor"])
    return _rope(parameters, key, _number(hf, "rope_theta", theta), dim=rotated)


def llama(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """Llama 2 and 3, TinyLlama, SmolLM2."""
    fields = _llama_like(hf, family)
    bias = bool(hf.get("attention_bias"))
    _nowhere_sliding(hf)
    return ModelConfig(
        **fields,
        rope=_plain_rope(hf, fields["head_dim"], fields["max_positions"]),
        activation=_activation(hf, "hidden_act", "silu"),
        qkv_bias=bias,
        attention_out_bias=bias,
        mlp_bias=bool(hf.get("mlp_bias")),
    )


def mistral(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """Mistral: Llama's layers, all with a sliding window (v0.1) or none (v0.3)."""
    fields = _llama_like({"num_key_value_heads": 8, **hf}, family)
    # v0.1 has 4096, v0.3 null; without the key, transformers assumes v0.1.
    window = hf.get("sliding_window", 4096)
    everywhere = (window is not None,) * fields["num_layers"]
    if _sliding(hf, everywhere) != everywhere:
        raise refuse("layer_types", hf["layer_types"], "the same attention in all layers")
    return ModelConfig(
        **fields,
        rope=_plain_rope(hf, fields["head_dim"], fields["max_positions"]),
        activation=_activation(hf, "hidden_act", "silu"),
        sliding_window=window,
        sliding_layers=everywhere,
    )


def qwen(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """Qwen2, with biases on queries, keys and values; Qwen3, with norms on queries and keys."""
    third = family == "qwen3"
    fields = _llama_like({"head_dim": 128, **hf} if third else hf, family)
    window = _get(hf, "sliding_window", 4096) if hf.get("use_sliding_window") else None
    lowest = int(_number(hf, "max_window_layers", 28))
    default = [window is not None and i >= lowest for i in range(fields["num_layers"])]
    bias = bool(hf.get("attention_bias")) if third else True
    return ModelConfig(
        **fields,
        rope=_plain_rope(hf, fields["head_dim"], fields["max_positions"]),
        activation=_activation(hf, "hidden_act", "silu"),
        qkv_bias=bias,
        attention_out_bias=third and bias,
        qk_norm=third,
        sliding_window=window,
        sliding_layers=_sliding(hf, default),
    )


def smollm3(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """SmolLM3: Llama's layers; every fourth leaves queries and keys as they are."""
    defaults = {"num_key_value_heads": 4, "tie_word_embeddings": True}
    fields = _llama_like({**defaults, **hf}, family)
    layers, every = fields["num_layers"], _get(hf, "no_rope_layer_interval", 4)
    usual = [(i + 1) % every != 0 for i in range(layers)]
    rotated = tuple(bool(flag) for flag in _get(hf, "no_rope_layers", usual))
    window = hf.get("sliding_window") if hf.get("use_sliding_window") else None
    slides = _sliding(hf, [window is not None and not flag for flag in rotated])
    bias = bool(hf.get("attention_bias"))
    return ModelConfig(
        **fields,
        rope=_plain_rope(hf, fields["head_dim"], fields["max_positions"], theta=2_000_000.0),
        activation=_activation(hf, "hidden_act", "silu"),
        qkv_bias=bias,
        attention_out_bias=bias,
        mlp_bias=bool(hf.get("mlp_bias")),
        sliding_window=window,
        sliding_layers=slides,
        rope_layers=() if all(rotated) and len(rotated) == layers else rotated,
    )


def olmo2(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """OLMo 2: norms only after attention and MLP, and over all heads of queries and keys."""
    fields = _llama_like({"rms_norm_eps": 1e-5, **hf}, family)
    bias = bool(hf.get("attention_bias"))
    _nowhere_sliding(hf)
    return ModelConfig(
        **fields,
        rope=_plain_rope(hf, fields["head_dim"], fields["max_positions"]),
        activation=_activation(hf, "hidden_act", "silu"),
        qkv_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        wide_qk_norm=True,
        pre_norms=False,
        post_norms=True,
    )


def phi3(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """Phi-3 and Phi-4-mini: Llama's layers in fused matrices, with a part of each head rotated."""
    fields = _llama_like({"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, **hf}, family)
    ropes = dict(hf.get("rope_parameters") or {})
    part = ropes.pop("partial_rotary_factor", None)
    part = _number(hf, "partial_rotary_factor", 1.0) if part is None else float(part)
    plain = {key: value for key, value in hf.items() if key != "partial_rotary_factor"}
    window = hf.get("sliding_window")
    return ModelConfig(
        **fields,
        rope=_plain_rope(
            {**plain, "rope_parameters": ropes},
            int(fields["head_dim"] * part),
            fields["max_positions"],
        ),
        activation=_activation(hf, "hidden_act", "silu"),
        sliding_window=window,
        sliding_layers=(window is not None,) * fields["num_layers"],
    )


def gemma3(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """Gemma 3's text models: local and global layers, each kind with its own rope."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        expect(hf, key, None)
    expect(hf, "use_bidirectional_attention", None, False)
    # Those of transformers: the configuration inside one of more than text leaves them out.
    defaults = {"head_dim": 256, "num_attention_heads": 8, "num_key_value_heads": 4,
                "max_position_embeddings": 131_072, "vocab_size": 262_208}  # fmt: skip
    defaults |= {"tie_word_embeddings": True}
    fields = _llama_like({**defaults, **hf}, family)
    period = _get(hf, "sliding_window_pattern", _get(hf, "_sliding_window_pattern", 6))
    default = [(i + 1) % period != 0 for i in range(fields["num_layers"])]

    ropes = dict(_get(hf, "rope_parameters", {}))
    for kind in ropes.keys() - {"full_attention", "sliding_attention"}:
        raise refuse(f"rope_parameters.{kind}", ropes[kind], "full_attention, sliding_attention")
    everywhere = {**(hf.get("rope_scaling") or {}), **(ropes.get("full_attention") or {})}
    nearby = dict(ropes.get("sliding_attention") or {})
    for key in ("rope_type", "type"):
        if nearby.get(key) not in (None, "default"):
            raise refuse(f"rope_parameters.sliding_attention.{key}", nearby[key], "'default'")
    if nearby.get("factor") not in (None, 1):
        raise refuse("rope_parameters.sliding_attention.factor", nearby["factor"], 1)
    local_theta = _number(nearby, "rope_theta", _number(hf, "rope_local_base_freq", 10_000.0))
    rope = _rope(
        {"original_max_position_embeddings": fields["max_positions"], **everywhere},
        "rope_parameters.full_attention" if ropes else "rope_scaling",
        _number(hf, "rope_theta", 1_000_000.0),
        dim=fields["head_dim"],
        local_theta=local_theta,
    )
    bias = bool(hf.get("attention_bias"))
    return ModelConfig(
        **fields,
        rope=rope,
        norm_offset=1.0,
        activation=_activation(hf, "hidden_activation", "gelu_pytorch_tanh"),
        qkv_bias=bias,
        attention_out_bias=bias,
        qk_norm=True,
        post_norms=True,
        embedding_scale=fields["hidden_size"] ** 0.5,
        query_scale=_number(hf, "query_pre_attn_scalar", 256) ** -0.5,
        sliding_window=_get(hf, "sliding_window", 4096),
        sliding_layers=_sliding(hf, default),
    )


def _gpt(hf: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The fields that gpt2 and gptj share."""
    hidden, heads, vocab = _need(hf, "n_embd"), _need(hf, "n_head"), _need(hf, "vocab_size")
    if hidden % heads:
        raise refuse("n_head", heads, f"a divisor of n_embd ({hidden})")
    return {
        "family": family,
        "vocab_size": vocab,
        "num_tokens": vocab,
        "hidden_size": hidden,
        "num_layers": _need(hf, "n_layer"),
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": hidden // heads,
        "mlp_size": _get(hf, "n_inner", 4 * hidden),
        "max_positions": _need(hf, "n_positions"),
        "norm": "layer",
        "norm_eps": _number(hf, "layer_norm_epsilon", 1e-5),
        "activation": _activation(hf, "activation_function", "gelu_new"),
        "gated_mlp": False,
        "mlp_bias": True,
    }


def gptj(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """GPT-J: parallel blocks, part of every head rotated, a bias on the output head."""
    rotary = _need({"rotary_dim": 64, **hf}, "rotary_dim")
    expect(hf, "rotary", True)
    expect(hf, "scale_attn_weights", True)
    return ModelConfig(
        **_gpt(hf, family),
        rope=Rope(theta=10_000.0, dim=rotary, interleaved=True),
        head_bias=True,
        parallel_block=True,
        tie_embeddings=bool(_get(hf, "tie_word_embeddings", False)),
    )


def gpt2(hf: Mapping[str, Any], family: str) -> ModelConfig:
    """GPT-2: learned positions, layer norms, and biases everywhere."""
    expect(hf, "scale_attn_by_inverse_layer_idx", None, False)
    expect(hf, "add_cross_attention", None, False)
    return ModelConfig(
        **_gpt(hf, family),
        rope=None,
        qkv_bias=True,
        attention_out_bias=True,
        query_scale=None if _get(hf, "scale_attn_weights", True) else 1.0,
        tie_embeddings=bool(_get(hf, "tie_word_embeddings", True)),
    )
