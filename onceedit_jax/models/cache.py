"""Positions and the key/value cache, a pytree of fixed capacity that `forward` extends in place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from onceedit_jax.distributed.mesh import Axes, constrain
from onceedit_jax.models.config import ModelConfig

Cache = dict[str, jax.Array]

# What each dimension of a cache's arrays holds.
CACHE_AXES: dict[str, Axes] = {
    "keys": ("layers", "batch", "length", "heads", "head_dim"),
    "values": ("layers", "batch", "length", "heads", "head_dim"),
    "positions": ("batch", "length"),
    "length": (),
}


def padded_positions(lengths: jax.Array, width: int, side: str = "right") -> jax.Array:
    """Positions [B, width] int32 of rows with `lengths` [B] tokens, padded with -1 on `side`.

    Raises:
        ValueError: `side` is neither "left" nor "right".
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}; expected 'left' or 'right'")
    lengths = jnp.asarray(lengths, jnp.int32)[:, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None]
    positions = columns if side == "right" else columns - (width - lengths)
    return jnp.where((positions >= 0) & (positions < lengths), positions, -1)


def init_cache(
    config: ModelConfig, batch: int, capacity: int, dtype: DTypeLike = jnp.float32
) -> Cache:
    """An empty cache of `capacity` S slots for `batch` B rows.

    Returns:
        `keys` and `values` [L, B, S, Hkv, K] of `dtype`; `positions` [B, S] int32, -1 where a slot
        holds nothing to attend to; `length`, the int32 scalar cursor. `forward` writes T columns at
        slots [length, length + T) of every row, padding included. The caller keeps length + T <= S:
        the cursor is traced, so that overflow cannot raise, and the last columns would be
        overwritten.
    """
    shape = (config.num_layers, batch, capacity, config.num_kv_heads, config.head_dim)
    empty = constrain(jnp.zeros(shape, dtype), *CACHE_AXES["keys"])
    nowhere = jnp.full((batch, capacity), -1, jnp.int32)
    return {
        "keys": empty,
        "values": jnp.zeros_like(empty),
        "positions": constrain(nowhere, *CACHE_AXES["positions"]),
        "length": jnp.zeros((), jnp.int32),
    }


def write_positions(cache: Cache, positions: jax.Array) -> jax.Array:
    """The cache's positions [B, S] once the columns at `positions` [B, T] are in it."""
    start = (jnp.int32(0), cache["length"])
    return jax.lax.dynamic_update_slice(cache["positions"], positions, start)


def rollback(cache: Cache, keep: jax.Array) -> Cache:
    """Forget every cached token at position >= `keep` [B] int32 of its row.

    The cursor stays: rows forget different amounts, so that their slots are not reused.
    """
    positions = jnp.where(cache["positions"] < keep[:, None], cache["positions"], -1)
    return {**cache, "positions": positions}
