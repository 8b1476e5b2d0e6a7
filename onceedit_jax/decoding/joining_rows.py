"""Rows that join and leave a batch at any time, and share one key/value cache.

So requests that arrive one after another are decoded together, and none waits for another's end. A
row's columns may lie anywhere in the cache, because a query attends by positions.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from onceedit_jax.decoding.prefix_batching import extend, state_columns, step_width
from onceedit_jax.distributed.bucketing import (
    doubling,
    group_height,
    pad_rows,
    round_up,
    row_positions,
)
from onceedit_jax.distributed.mesh import batch_multiple, constrain, mesh_of, using
from onceedit_jax.models.cache import CACHE_AXES, Cache, init_cache, rollback
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import AnyArray

R = TypeVar("R")

NARROWEST = 32  # columns of a prefill
SHORTEST = 128  # columns of a cache
SPARE = 64  # columns of a cache beyond the longest row, so that it is seldom repacked


class Fresh(NamedTuple):
    """What a row runs next.

    Attributes:
      keep: how many of its tokens stay in the cache; the rest is dropped.
      tokens: those that run after them, at least one.
      wanted: after how many of these, the last ones, the states are wanted.
    """

    keep: int
    tokens: Sequence[int]
    wanted: int = 1


class JoiningRows:
    """A batch whose rows come and go.

    Attributes:
      lengths: by the place of each row in the batch, how many of its tokens the cache holds.
      cache: the cache; None while there are no rows.
      height: rows of the cache.
      capacity: its columns.
      used: how many of them are written.
    """

    def __init__(
        self,
        params: Any,
        config: ModelConfig,
        *,
        largest: int,
        context: int,
        spare: int | None = None,
        rounded: Callable[[int], int] | None = None,
    ) -> None:
        """Begin without rows.

        Args:
          params: the model's parameters.
          config: its configuration.
          largest: the most rows.
          context: tokens of a row at most.
          spare: columns of a cache beyond those (default: `SPARE`).
          rounded: from the tokens of a prompt to the columns of its prefill (default: few shapes,
            `NARROWEST` times a power of two).
        """
        self.params: Any = params
        self.config: ModelConfig = config
        self.largest: int = largest
        self.context: int = context
        self.spare: int = SPARE if spare is None else spare
        self.rounded = rounded or (lambda size: doubling(size, smallest=NARROWEST))
        self.mesh: Mesh = mesh_of(params)
        self.clear()

    def clear(self) -> None:
        """Drop all rows."""
        self.lengths: dict[int, int] = {}
        self.cache: Cache | None = None
        self.height: int = 0
        self.capacity: int = 0
        self.used: int = 0

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def free(self) -> int:
        """How many more rows may join."""
        return self.largest - len(self)

    def join(
        self,
        rows: Sequence[Sequence[int]],
        counts: Sequence[int],
        *,
        kept: Sequence[int] | None = None,
        columns: int = 1,
    ) -> tuple[list[int], Float[Array, "rows columns hidden"]]:
        """Add rows, which run in a batch of their own first.

        Args:
          rows: N token sequences, none empty, at most `free`.
          counts: how many states are wanted of each, those after its last tokens.
          kept: how many tokens of each row stay, at least one (default: all); the others are only
            read for their states.
          columns: C is at least this, so that there are few shapes.

        Returns:
          The places of the rows, and `[N', C, D]`, their states as of `advance`, in the order of
          the rows; N' is N rounded up.
        """
        longest = max(map(len, rows))
        kept = [len(row) for row in rows] if kept is None else kept
        width = min(self.rounded(longest), max(longest, self.context))
        self._make_room(len(rows), longest, width)
        assert self.cache is not None
        free = [place for place in range(self.height) if place not in self.lengths]
        places = free[: len(rows)]
        fresh = [Fresh(0, row, count) for row, count in zip(rows, counts, strict=True)]
        height = self.height_for(len(rows))
        with using(self.mesh):
            empty = init_cache(self.config, height, width)
            first = dict(enumerate(fresh))
            states, part = self._run(empty, first, {}, height, width, columns)
            # Rows that only fill up the batch go to a place that does not exist.
            targets, stay = np.full(height, self.height, np.int32), np.zeros(height, np.int32)
            targets[: len(places)], stay[: len(places)] = places, kept
            self.used = max(self.used, *kept)
            part = rollback(part, stay)
            self.cache = _inserted(self.cache, part, targets, np.int32(self.used))
        self.lengths |= zip(places, kept, strict=True)
        return places, states

    def advance(self, fresh: Mapping[int, Fresh]) -> Float[Array, "batch columns hidden"]:
        """Run more tokens of some rows.

        Args:
          fresh: by the places of rows, what they run. The other rows stay as they are.

        Returns:
          `[B, C, D]`, C at least the largest count: at each place the states after the row's last
          tokens, in their order. Entries beyond a row's count have no meaning.
        """
        assert self.cache is not None
        width = step_width([len(row.tokens) for row in fresh.values()])
        lengths = self.lengths | {place: row.keep for place, row in fresh.items()}
        if self.used + width > self.capacity:
            self._repack(self.height, max(lengths.values()) + width, lengths)
        with using(self.mesh):
            states, self.cache = self._run(self.cache, fresh, lengths, self.height, width)
        self.used += width
        self.lengths |= {place: row.keep + len(row.tokens) for place, row in fresh.items()}
        return states

    def write(self, loop: Callable[..., tuple[R, Cache]], steps: int) -> R:
        """Let a compiled loop write; the caller adds to `lengths` what rows have got.

        Args:
          loop: called with the parameters, the configuration, the cache, which it may donate, and
            by name the `limit` of its steps; it writes a column of all rows at each of them.
          steps: how many steps it could use.

        Returns:
          What the loop returns besides the cache.
        """
        assert self.cache is not None
        if self.used == self.capacity:
            self._repack(self.height, max(self.lengths.values()) + steps, self.lengths)
        limit = np.int32(min(steps, self.capacity - self.used))
        with using(self.mesh):
            found, self.cache = loop(self.params, self.config, self.cache, limit=limit)
        self.used = int(self.cache["length"])
        return found

    def leave(self, place: int) -> None:
        """Give a row's place to others; the last row takes the cache with it."""
        del self.lengths[place]
        if not self.lengths:
            self.clear()

    def narrow(self, height: int) -> dict[int, int]:
        """Move all rows to the first places of a lower cache, which has room for them.

        Args:
          height: of the new cache.

        Returns:
          The new place of each row, by its old one.
        """
        assert self.cache is not None
        places = sorted(self.lengths)
        moved = {old: new for new, old in enumerate(places)}
        with using(self.mesh):
            self.cache = _with_rows(self.cache, np.array(places + places[:1] * height)[:height])
        self.lengths = {moved[place]: length for place, length in self.lengths.items()}
        self.height = height
        self._repack(height, max(self.lengths.values()), self.lengths)
        return moved

    def height_for(self, rows: int) -> int:
        """Rows of the batch that so many run in."""
        return round_up(group_height(rows, self.largest), batch_multiple(self.mesh))

    def _make_room(self, rows: int, columns: int, width: int) -> None:
        """Have a cache with places for more rows, and with columns for these."""
        height = max(self.height, self.height_for(len(self) + rows))
        if self.cache is None:
            self.height, self.capacity = height, self._columns(max(columns, width))
            with using(self.mesh):
                self.cache = init_cache(self.config, height, self.capacity)
        elif height > self.height or width > self.capacity:
            self._repack(height, max(width, *self.lengths.values()), self.lengths)

    def _columns(self, needed: int) -> int:
        """Columns of a cache that needs so many: half as many more, within what rows may fill."""
        usual = doubling(needed * 3 // 2, smallest=SHORTEST)
        return max(needed, min(usual, self.context + self.spare))

    def _repack(self, height: int, columns: int, lengths: Mapping[int, int]) -> None:
        """Move every row's tokens to the first columns, in a cache of another shape if needed."""
        assert self.cache is not None
        self.capacity = self._columns(columns)
        keep = np.zeros(self.height, np.int32)
        for place, length in lengths.items():
            keep[place] = length
        self.used, self.height = int(keep.max()), height
        with using(self.mesh):
            self.cache = _repacked(
                self.cache, keep, np.int32(self.used), height=height, capacity=self.capacity
            )

    def _run(
        self,
        cache: Cache,
        fresh: Mapping[int, Fresh],
        lengths: Mapping[int, int],
        height: int,
        width: int,
        columns: int = 1,
    ) -> tuple[jax.Array, Cache]:
        rows: list[list[int]] = [[] for _ in range(height)]
        keep, counts = np.zeros(height, np.int32), [1] * height
        for place, length in lengths.items():
            keep[place] = length
        for place, row in fresh.items():
            rows[place], counts[place] = list(row.tokens), row.wanted
        positions = row_positions([len(row) for row in rows], width=width, height=height)
        states, longer = extend(
            self.params,
            self.config,
            cache,
            keep,
            pad_rows(rows, width=width, height=height),
            np.where(positions >= 0, positions + keep[:, None], -1),
            state_columns(
                [len(row) for row in rows], counts, height=height, width=width, least=columns
            ),
        )
        return states, longer


@partial(jax.jit, donate_argnames="cache")
def _inserted(
    cache: Cache, part: Cache, places: Int[AnyArray, "rows"], used: Int[AnyArray, ""]
) -> Cache:
    """A cache with the rows of another one in the first columns of some places."""
    width = part["positions"].shape[1]
    positions = cache["positions"].at[places].set(-1, mode="drop")
    return {
        "keys": cache["keys"].at[:, places, :width].set(part["keys"], mode="drop"),
        "values": cache["values"].at[:, places, :width].set(part["values"], mode="drop"),
        "positions": positions.at[places, :width].set(part["positions"], mode="drop"),
        "length": jnp.asarray(used),
    }


@jax.jit
def _with_rows(cache: Cache, rows: Int[AnyArray, "rows"]) -> Cache:
    """A cache of some rows of another one."""
    chosen = {name: cache[name][:, rows] for name in ("keys", "values")}
    chosen["positions"] = cache["positions"][rows]
    laid = {name: constrain(array, *CACHE_AXES[name]) for name, array in chosen.items()}
    return {**laid, "length": cache["length"]}


@partial(jax.jit, static_argnames=("height", "capacity"))
def _repacked(
    cache: Cache,
    keep: Int[AnyArray, "rows"],
    used: Int[AnyArray, ""],
    *,
    height: int,
    capacity: int,
) -> Cache:
    """A cache of another shape, with the first `keep` tokens of each row at its beginning."""
    old = cache["positions"]
    valid = (old >= 0) & (old < keep[:, None])
    order = jnp.argsort(jnp.where(valid, old, np.iinfo(np.int32).max), axis=1)
    positions = jnp.take_along_axis(jnp.where(valid, old, -1), order, axis=1)
    more = [(0, height - old.shape[0]), (0, max(0, capacity - old.shape[1]))]
    positions, order = positions[:, :capacity], order[:, :capacity]

    def moved(array: jax.Array) -> jax.Array:
        sorted_columns = jnp.take_along_axis(array, order[None, :, :, None, None], axis=2)
        return jnp.pad(sorted_columns, [(0, 0), *more, (0, 0), (0, 0)])

    return {
        "keys": moved(cache["keys"]),
        "values": moved(cache["values"]),
        "positions": jnp.pad(positions, more, constant_values=-1),
        "length": jnp.asarray(used),
    }
