"""Positions and the key/value cache, a pytree of fixed capacity that `forward` extends in place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from onceedit_jax.distributed.mesh import Axes, constrain
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import AnyArray, Positions

Cache = dict[str, jax.Array]
"""Keys, values, positions and the cursor; see `init_cache`."""

# The logical axes of a cache's arrays.
CACHE_AXES: dict[str, Axes] = {
    "keys": ("layers", "batch", "length", "heads", "head_dim"),
    "values": ("layers", "batch", "length", "heads", "head_dim"),
    "positions": ("batch", "length"),
    "length": (),
}


def padded_positions(
    lengths: Int[AnyArray, " batch"], width: int, side: str = "right"
) -> Int[Array, "batch {width}"]:
    """Positions of rows that are padded to `width` columns; -1 marks padding.

    Args:
        lengths: Tokens of each row.
        width: Columns.
        side: Where the padding is, "left" or "right".

    Raises:
        ValueError: `side` is something else.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side is {side!r}; expected 'left' or 'right'")
    lengths = jnp.asarray(lengths, jnp.int32)[:, None]
    columns = jnp.arange(width, dtype=jnp.int32)[None]
    positions = columns if side == "right" else columns - (width - lengths)
    return jnp.where((positions >= 0) & (positions < lengths), positions, -1)


def cache_bytes(config: ModelConfig, tokens: int, *, itemsize: int = 2) -> int:
    """Bytes of the cached keys and values of `tokens` tokens, numbers of `itemsize` bytes."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * tokens * itemsize


def init_cache(
    config: ModelConfig, batch: int, capacity: int, dtype: DTypeLike | None = None
) -> Cache:
    """An empty cache for `batch` B rows, with `capacity` S slots for each.

    Returns:
        `keys` and `values` [L, B, S, Hkv, K] of `dtype` (default: the compute dtype); `positions`
        [B, S] int32, -1 for slots without a token to attend to; `length`, the int32 scalar cursor.
        `forward` writes T columns at slots [length, length + T) of every row, padding included. The
        caller makes sure that length + T <= S: the cursor is traced, so an overflow cannot raise an
        error; it would overwrite the last columns.
    """
    shape = (config.num_layers, batch, capacity, config.num_kv_heads, config.head_dim)
    dtype = config.compute_dtype if dtype is None else dtype
    empty = constrain(jnp.zeros(shape, dtype), *CACHE_AXES["keys"])
    positions = jnp.full((batch, capacity), -1, jnp.int32)
    return {
        "keys": empty,
        "values": jnp.zeros_like(empty),
        "positions": constrain(positions, *CACHE_AXES["positions"]),
        "length": jnp.zeros((), jnp.int32),
    }


def write_positions(cache: Cache, positions: Positions) -> Int[Array, "batch slots"]:
    """The cache's positions after columns at `positions` are appended."""
    start = (jnp.int32(0), cache["length"])
    return jax.lax.dynamic_update_slice(cache["positions"], positions, start)


def rollback(cache: Cache, lengths: Int[AnyArray, " batch"]) -> Cache:
    """Drop every cached token at position >= `lengths` of its row.

    The cursor does not move: rows drop different numbers of tokens, so slots are not used again.
    """
    positions = jnp.where(cache["positions"] < lengths[:, None], cache["positions"], -1)
    return {**cache, "positions": positions}
