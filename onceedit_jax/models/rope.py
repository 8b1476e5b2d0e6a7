"""Rotary position embedding (Su et al. 2021, RoFormer, section 3.2) and its two scaling rules."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from onceedit_jax.models.config import Rope
from onceedit_jax.types import AnyArray, Positions

Angles = Float[Array, "batch length 1 pairs"]
Rotation = tuple[Angles, Angles]
"""Cosine and sine of the angle of every rotated pair."""


def inverse_frequencies(rope: Rope, *, local: bool = False) -> Float32[np.ndarray, " pairs"]:
    """Angle per position of every rotated pair.

    The `llama3` rule leaves wavelengths below original / high_freq_factor as they are, stretches
    those above original / low_freq_factor by `factor`, and interpolates between the two.

    Args:
        rope: Settings of the embedding.
        local: Use the base of the sliding layers, which is never scaled.
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
        unscaled = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
        frequencies = unscaled * frequencies + (1.0 - unscaled) * frequencies / rope.factor
    return frequencies.astype(np.float32)


def rotation_at(positions: Positions, rope: Rope, *, local: bool = False) -> Rotation:
    """Cosine and sine of every pair's angle at the given positions, float32."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(rope, local=local)
    return jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]


def unrotated(rotation: Rotation) -> Rotation:
    """Angles of zero, of the same shape: `rotate` returns what it is given."""
    cos, sin = rotation
    return jnp.ones_like(cos), jnp.zeros_like(sin)


def rotate(
    x: Float[AnyArray, "batch length heads head"], rotation: Rotation, *, interleaved: bool = False
) -> Float[Array, "batch length heads head"]:
    """Rotate the leading dimensions of every head in float32; the other dimensions are unchanged.

    Args:
        x: Queries or keys.
        rotation: From `rotation_at`, with at most half as many pairs as a head has dimensions.
        interleaved: Pairs are neighbours (2i, 2i + 1), not halves (i, i + dim / 2).
    """
    cos, sin = rotation
    dim = 2 * cos.shape[-1]
    rotated = x[..., :dim].astype(jnp.float32)
    if interleaved:
        a, b = rotated[..., 0::2], rotated[..., 1::2]
        rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(rotated.shape)
    else:
        a, b = jnp.split(rotated, 2, axis=-1)
        rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    rotated = rotated.astype(x.dtype)
    return rotated if dim == x.shape[-1] else jnp.concatenate([rotated, x[..., dim:]], axis=-1)
