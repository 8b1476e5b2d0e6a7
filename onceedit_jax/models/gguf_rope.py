"""The rope of a GGUF model: its metadata, or the divisors of its frequencies, as config.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from onceedit_jax.errors import InputError
from onceedit_jax.storage.gguf import GGUFFile, dequantize
from onceedit_jax.storage.schema import shown

ROPE_FREQS = "rope_freqs.weight"


def rotary_config(file: GGUFFile, config: dict[str, Any], get: Any) -> dict[str, Any]:
    """The keys of config.json for the attention's heads and their rope.

    Args:
        file: the header.
        config: the keys so far.
        get: gives the value of a key of the architecture, or a default.

    Raises:
        InputError: a variant that the decoder does not support.
    """
    heads = config["num_attention_heads"]
    head_dim = get("attention.key_length", config["hidden_size"] // heads)
    rotated = get("rope.dimension_count", head_dim)
    if rotated != head_dim or get("attention.value_length", head_dim) != head_dim:
        raise InputError(
            f"{file.path}: keys of {head_dim} dimensions, {rotated} of them rotated, and values of "
            f"{get('attention.value_length', head_dim)}; expected three equal numbers: this "
            "variant is not supported; choose another model"
        )
    extra: dict[str, Any] = {
        "num_key_value_heads": get("attention.head_count_kv", heads),
        "head_dim": head_dim,
        "rope_theta": get("rope.freq_base", 10000.0),
    }
    # As llama.cpp has it: a factor alone is that of linear scaling.
    factor = get("rope.scaling.factor", get("rope.scale_linear", 1.0))
    kind = get("rope.scaling.type", "none" if factor == 1 else "linear")
    if kind not in ("none", "linear"):
        raise InputError(
            f"{file.path}: rope scaling is {shown(kind)}; expected none, linear or that of Llama "
            "3; choose another model"
        )
    if kind == "linear":
        extra["rope_scaling"] = {"rope_type": "linear", "factor": factor}
    if ROPE_FREQS in file.tensors:
        if (shape := file.tensors[ROPE_FREQS].shape) != (head_dim // 2,):
            raise InputError(
                f"{file.path}: tensor {ROPE_FREQS} has shape {list(shape)}; expected "
                f"{[head_dim // 2]}, a divisor for each frequency: fetch the file again"
            )
        factors = np.empty(file.tensors[ROPE_FREQS].shape, np.float32)
        dequantize(file, ROPE_FREQS, factors)
        extra["rope_scaling"] = llama3_scaling(file.path, factors, extra["rope_theta"])
    return extra


def llama3_scaling(
    path: Path, factors: Float32[np.ndarray, " pairs"], theta: float
) -> dict[str, Any]:
    """Recover the Llama-3 rope settings from the frequency divisors in a GGUF file.

    With wavelength w, the divisor is 1 below w = N / high, `factor` above w = N / low, and between
    them 1 / divisor = (1 - s) / factor + s with s = (N / w - low) / (high - low). Only ratios
    count, so low is set to 1; N and high follow from the line s over 1 / w.

    Args:
        path: the file, for the error.
        factors: divisors of the rotary frequencies.
        theta: rope base.

    Raises:
        InputError: no Llama-3 settings give these divisors.
    """
    k = 2 * factors.size
    inverse_wave = theta ** (-np.arange(0, k, 2) / k) / (2 * np.pi)
    factor = float(factors.max())
    between = (factors > 1 + 1e-4) & (factors < factor * (1 - 1e-4))
    sound = np.isfinite(factors).all() and factors.min() >= 1 and np.isfinite(inverse_wave).all()
    if sound and between.sum() >= 2:
        smooth = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
        slope, negative_low = np.polyfit(inverse_wave[between], smooth, 1)
        high = round(1 - 1 / negative_low, 2)
        original = round(slope * (high - 1))
        s = np.clip((original * inverse_wave - 1) / (high - 1), 0, 1)
        if np.allclose(1 / ((1 - s) / factor + s), factors, rtol=1e-3):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise InputError(
        f"{path}: tensor {ROPE_FREQS} holds divisors from {factors.min():g} to {factor:g}; "
        "expected those of Llama 3's rope scaling; give the model's Hugging Face folder instead"
    )
