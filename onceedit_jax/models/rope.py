"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.2) with its two stretchings."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from onceedit_jax.models.config import Rope


def inverse_frequencies(rope: Rope, *, local: bool = False) -> NDArray[np.float32]:
    """Angle per position of every rotated pair, `[dim / 2]` float32.

    `local` asks for the sliding layers' own base, which is never stretched. The `llama3` rule keeps
    wavelengths shorter than original / high_freq_factor, divides by `factor` those longer than
    original / low_freq_factor, and interpolates in between.
    """
    theta = rope.local_theta if local and rope.local_theta is not None else rope.theta
    frequencies = theta ** -(np.arange(0, rope.dim, 2, dtype=np.float64) / rope.dim)
    if local and rope.local_theta is not None:
        return frequencies.astype(np.float32)
    if rope.scaling == "linear":
        frequencies = frequencies / rope.factor
    elif rope.scaling == "llama3":
        turns = rope.original_max_positions * frequencies / (2 * math.pi)
        span = rope.high_freq_factor - rope.low_freq_factor
        keep = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
        frequencies = keep * frequencies + (1.0 - keep) * frequencies / rope.factor
    return frequencies.astype(np.float32)


def rotation(
    positions: jax.Array, rope: Rope, *, local: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every pair's angle at `positions` [B, T]: two float32 [B, T, 1, dim/2]."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(rope, local=local)
    return jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]


def rotate(
    x: jax.Array, cos_sin: tuple[jax.Array, jax.Array], *, interleaved: bool = False
) -> jax.Array:
    """Turn the leading dimensions of heads `x` [B, T, heads, K] in float32; the rest pass."""
    cos, sin = cos_sin
    dim = 2 * cos.shape[-1]
    turned = x[..., :dim].astype(jnp.float32)
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(turned.shape)
    else:
        a, b = jnp.split(turned, 2, axis=-1)
        turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    turned = turned.astype(x.dtype)
    return turned if dim == x.shape[-1] else jnp.concatenate([turned, x[..., dim:]], axis=-1)
