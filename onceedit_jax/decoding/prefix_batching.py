"""Runs a model over token rows of any length: bucketed shapes, padded batches, sharded rows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Shaped

from onceedit_jax.decoding.numbers import check_states
from onceedit_jax.distributed.bucketing import (
    batch_of,
    bucket,
    pad_rows,
    round_up,
    row_positions,
    slices,
)
from onceedit_jax.distributed.mesh import batch_multiple, mesh_of, shard_batch, to_host, using
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.cache import Cache, init_cache, rollback
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed

Tokens = Sequence[int]
ROWS = 16  # sequences in a batch, rounded up to a multiple of the devices
CHUNK = 64  # next tokens decided at once


@partial(jax.jit, static_argnames="config")
def _hidden(params: Any, config: ModelConfig, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    return hidden_states(params, config, tokens, positions)[0]


def states_after(
    params: Any,
    config: ModelConfig,
    prefixes: Sequence[Tokens],
    counts: Sequence[int] | None = None,
) -> Float[np.ndarray, "states hidden"]:
    """The final hidden states at the end of each prefix, from as few passes as they allow.

    A causal model computes the state after every prefix of a sequence at once. So prefixes of one
    another share a row of the batch.

    Args:
      params: the model's parameters; their devices share the rows of a batch.
      config: its configuration.
      prefixes: N token sequences, none empty.
      counts: how many states to return for each prefix, those after its last tokens (default: 1).

    Returns:
      `[sum(counts), D]` float32, in the order of prefixes and of their tokens.

    Raises:
      InputError: a prefix is longer than the model's context.
      RunError: a state is not finite.
    """
    config.check_length(max(map(len, prefixes), default=0))
    mesh = mesh_of(params)
    rows, places = share_rows(prefixes)
    counts = [1] * len(prefixes) if counts is None else counts
    ends = np.cumsum(counts).astype(int).tolist()
    states = np.zeros((sum(counts), config.hidden_size), np.float32)
    # Rows of similar length share a batch, so that little of it is padding.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    prefixes_of_row: dict[int, list[tuple[int, int]]] = {}
    for prefix, (row, column) in enumerate(places):
        prefixes_of_row.setdefault(row, []).append((prefix, column))
    for part in slices(len(order), ROWS):
        chosen = order[part]
        with using(mesh):
            batch = shared_batch(mesh, [list(rows[i]) for i in chosen], largest=ROWS)
            hidden = to_host(_hidden(params, config, *batch))
        for line, row in enumerate(chosen):
            for prefix, column in prefixes_of_row[row]:
                end, count = ends[prefix], counts[prefix]
                states[end - count : end] = hidden[line, column + 1 - count : column + 1]
    check_states(states, params, config, rows[order[-1]] if order else [])
    return states


@partial(jax.jit, static_argnames="config")
def _likeliest(head: Any, config: ModelConfig, states: jax.Array) -> jax.Array:
    return most_likely(unembed(head, config, states))


def tokens_after(
    params: Any,
    config: ModelConfig,
    states: Float[np.ndarray, "prefixes hidden"],
    *,
    chunk: int = CHUNK,
) -> Int[np.ndarray, "prefixes"]:
    """A model's own next tokens.

    Args:
      params: the model's parameters.
      config: its configuration.
      states: `[N, D]` from `states_after`.
      chunk: states in one compiled call; it bounds the `[chunk, V]` logits.

    Returns:
      `[N]` int32.
    """
    mesh, head = mesh_of(params), head_of(params)
    tokens = [np.zeros(0, np.int32)]
    with using(mesh):
        for start in range(0, len(states), chunk):
            part = states[start : start + chunk]
            tokens.append(to_host(_likeliest(head, config, padded(mesh, part)))[: len(part)])
    return np.concatenate(tokens)


def head_of(params: Any) -> Any:
    """The part of the parameters that `unembed` reads."""
    return {name: params[name] for name in ("embed", "head") if name in params}


def padded(mesh: Mesh, rows: Shaped[np.ndarray, "rows ..."]) -> Any:
    """Rows, filled up to a bucketed number, and split over the devices if there are several."""
    height = round_up(bucket(len(rows), smallest=1), batch_multiple(mesh))
    # Filled up with copies of the first row: rows of zeros would need the full fusion.
    filler = rows[:1] if len(rows) else np.zeros((1, *rows.shape[1:]), rows.dtype)
    filled = np.concatenate([rows, *[filler] * (height - len(rows))])
    return shard_batch(mesh, filled) if mesh.size > 1 else filled


def shared_batch(mesh: Mesh, rows: list[list[int]], *, largest: int, width: int = 0) -> Any:
    """`batch_of` rows, split over the devices of a mesh."""
    batch = batch_of(rows, largest=largest, width=width, multiple=batch_multiple(mesh))
    return shard_batch(mesh, batch) if mesh.size > 1 else batch


def share_rows(prefixes: Sequence[Tokens]) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """The fewest rows that hold all prefixes, and each prefix's (row, last column)."""
    keys = [tuple(prefix) for prefix in prefixes]
    distinct = set(keys)
    lengths = sorted({len(key) for key in distinct})
    rows: list[tuple[int, ...]] = []
    place: dict[tuple[int, ...], tuple[int, int]] = {}
    for key in sorted(distinct, key=lambda key: (-len(key), key)):
        if key in place:
            continue
        for length in lengths:
            if length <= len(key) and key[:length] in distinct:
                place.setdefault(key[:length], (len(rows), length - 1))
        rows.append(key)
    return rows, [place[key] for key in keys]


@partial(jax.jit, static_argnames="config", donate_argnames="cache")
def extend(
    params: Any,
    config: ModelConfig,
    cache: Cache,
    keep: jax.Array,
    tokens: jax.Array,
    positions: jax.Array,
    columns: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Cut the rows of a cache back, run more columns, and give the states at some of these.

    Args:
      params: the model's parameters.
      config: its configuration.
      cache: with room for T more columns; it is donated.
      keep: `[B]`, how many tokens of each row stay.
      tokens: `[B, T]` int32.
      positions: `[B, T]` int32, -1 on padding.
      columns: `[B, C]` int32, places among the T.

    Returns:
      States `[B, C, D]`, and the extended cache.
    """
    hidden, longer = hidden_states(params, config, tokens, positions, rollback(cache, keep))
    assert longer is not None
    return jnp.take_along_axis(hidden, columns[:, :, None], axis=1), longer


class CachedRows:
    """Rows of tokens that grow, or are cut back and rewritten, with one KV cache.

    `advance` takes what the rows hold now. What a row shares with the cache stays there, and the
    rest is rolled back and run. So prefill, a decoding step and a tail that was tokenized anew are
    one operation.

    Attributes:
      rows: what the cache holds.
      cache: the cache; None before the first call of `advance`.
      capacity: its columns.
      used: how many of them are written.
    """

    def __init__(self, params: Any, config: ModelConfig, *, room: int) -> None:
        """Begin without rows.

        Args:
          params: the model's parameters.
          config: its configuration.
          room: columns of a cache beyond those of its prefill.
        """
        self.params, self.config, self.room = params, config, room
        self.rows: list[list[int]] = []
        self.cache: Cache | None = None
        self.capacity = self.used = 0

    def advance(
        self, rows: Sequence[Tokens], counts: Sequence[int] | None = None
    ) -> Float[Array, "rows columns hidden"]:
        """Make the cache hold exactly `rows`, and return the states at their ends.

        Args:
          rows: B token sequences, none empty; B is the same in every call.
          counts: how many states to return for each row (default: 1, the one after its last token).

        Returns:
          `[B, C, D]`, C at least the largest count: the states after each row's last tokens, in
          their order. Entries beyond a row's count have no meaning.

        Raises:
          InputError: a row is longer than the model's context.
        """
        new = [list(row) for row in rows]
        self.config.check_length(max(map(len, new)))
        counts = [1] * len(new) if counts is None else list(counts)
        height = round_up(bucket(len(new), smallest=1), batch_multiple(mesh_of(self.params)))
        # Tokens whose states are returned always run.
        cached = self.rows or [[]] * len(new)
        keep = [
            min(common_prefix(old, row), len(row) - count)
            for old, row, count in zip(cached, new, counts, strict=True)
        ]
        width = step_width([len(row) - k for row, k in zip(new, keep, strict=True)])
        if self.cache is None or self.used + width > self.capacity:
            keep = [0] * len(new)
            width = bucket(max(len(row) for row in new))
            self.capacity, self.used = bucket(width + self.room), 0
            self.cache = init_cache(self.config, height, self.capacity)
        fresh = [row[k:] for row, k in zip(new, keep, strict=True)]
        offsets = np.array(keep + [0] * (height - len(new)), np.int32)
        positions = row_positions([len(row) for row in fresh], width=width, height=height)
        states, self.cache = extend(
            self.params,
            self.config,
            self.cache,
            offsets,
            pad_rows(fresh, width=width, height=height),
            np.where(positions >= 0, positions + offsets[:, None], -1),
            state_columns([len(row) for row in fresh], counts, height=height, width=width),
        )
        self.used += width
        self.rows = new
        ends: jax.Array = states[: len(new)]
        return ends


def state_columns(
    lengths: Sequence[int], counts: Sequence[int], *, height: int, width: int, least: int = 1
) -> Int[np.ndarray, "batch columns"]:
    """Columns, among those that run, of the last `counts` tokens of each row, `least` or more."""
    first = np.zeros(height, np.int32)
    first[: len(lengths)] = [length - n for length, n in zip(lengths, counts, strict=True)]
    steps = np.arange(bucket(max(least, *counts), smallest=1), dtype=np.int32)
    columns: np.ndarray = np.minimum(first[:, None] + steps, width - 1)
    return columns


def common_prefix(a: Tokens, b: Tokens) -> int:
    """How many leading tokens two sequences share."""
    count = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        count += 1
    return count


def step_width(lengths: list[int]) -> int:
    """Columns for a step of rows that run so many tokens: few of them, in few shapes."""
    longest = max(lengths)
    return longest if longest <= 2 else bucket(longest, smallest=4)
