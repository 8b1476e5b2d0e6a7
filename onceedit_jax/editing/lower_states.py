"""The stream below the layers that are trained: it never changes, so each row is run once."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.distributed.bucketing import doubling, pack, round_up
from onceedit_jax.distributed.mesh import batch_multiple, mesh_of, shard_batch, to_host, using
from onceedit_jax.editing.batches import (
    Even,
    RowStream,
    TrainingRow,
    epoch_groups,
    even_shape,
    packed_lines,
)
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states
from onceedit_jax.models.layout import lower_part
from onceedit_jax.models.products import as_operands
from onceedit_jax.types import Params

LINES, WIDTH = 8, 128  # of one batch, into which rows are packed: one program runs them all
STREAMS = 4096  # rows whose streams are kept at once: 120 or 240 MB for 25 tokens of 576 numbers


@dataclasses.dataclass
class LowerStates:
    """The streams below the trained layers, for some epochs at a time, so that they fit in memory.

    A resumed run computes those of the same epochs together, and so the same numbers.

    Attributes:
      params: the model's parameters; their devices share the rows.
      config: its configuration.
      below: how many of the first layers are not trained.
      rows: see `editing.batches.epoch_groups`.
      pools: likewise.
      settings: likewise, resolved.
    """

    params: Params
    config: ModelConfig
    below: int
    rows: Sequence[TrainingRow]
    pools: Sequence[Sequence[TrainingRow]]
    settings: EditSettings
    _first: int = -1  # of the epochs that are there
    _there: Even | None = None

    def of(self, epoch: int) -> Even:
        """Those of an epoch's rows and of its neighbours', and one shape for all their batches."""
        size = max(1, STREAMS // (len(self.rows) + len(self.pools)))
        first = epoch - epoch % size
        if self._there is None or first != self._first:
            assert self.settings.epochs is not None
            groups = [
                group
                for e in range(first, min(first + size, self.settings.epochs))
                for group in epoch_groups(self.rows, self.settings, e, pools=self.pools, even=True)
            ]
            rows = (row for group in groups for row in group)
            self._there = Even(
                lower_streams(self.params, self.config, self.below, rows),
                even_shape(groups, multiple=batch_multiple(mesh_of(self.params))),
            )
            self._first = first
        return self._there


def lower_streams(
    params: Params, config: ModelConfig, layers: int, rows: Iterable[TrainingRow]
) -> dict[tuple[int, ...], RowStream]:
    """The residual stream after the lower layers, by the tokens of each row.

    Args:
      params: the model's parameters; their devices share the rows.
      config: its configuration.
      layers: how many of the first layers run.
      rows: the rows; equal ones run once.
    """
    lower, lower_config = lower_part(params, config, layers)
    lower = as_operands(lower, config.compute_dtype)
    # One order for one set of rows: a resumed run gets the same numbers.
    distinct = sorted({row.tokens for row in rows}, key=lambda tokens: (len(tokens), tokens))
    width = doubling(max(map(len, distinct)), smallest=WIDTH)
    places = pack([len(tokens) for tokens in distinct], width)
    mesh = mesh_of(params)
    height = round_up(LINES, batch_multiple(mesh))
    shape = round_up(1 + max(line for line, _ in places), height), width
    lines = packed_lines(distinct, places, shape)
    states = np.empty((*shape, config.hidden_size), jnp.dtype(config.compute_dtype))
    for start in range(0, len(states), height):
        batch = tuple(array[start : start + height] for array in lines)
        with using(mesh):
            batch = shard_batch(mesh, batch) if mesh.size > 1 else batch
            states[start : start + height] = to_host(_stream(lower, lower_config, *batch))
    return {
        tokens: states[line, first : first + len(tokens)]
        for tokens, (line, first) in zip(distinct, places, strict=True)
    }


@partial(jax.jit, static_argnames="config")
def _stream(
    params: Any,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
) -> jax.Array:
    return hidden_states(params, config, tokens, positions, segments=segments, normed=False)[0]
