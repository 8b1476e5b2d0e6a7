"""The stream below the layers that are trained: it never changes, so each row is run once."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import jax

from onceedit_jax.decoding.prefix_batching import shared_batch
from onceedit_jax.distributed.mesh import mesh_of, to_host, using
from onceedit_jax.editing.batches import RowStream, TrainingRow
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states
from onceedit_jax.models.layout import lower_part
from onceedit_jax.types import Params

ROWS = 32  # in one batch


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
    # One order for one set of rows: a resumed run gets the same numbers.
    distinct = sorted({row.tokens for row in rows}, key=lambda tokens: (len(tokens), tokens))
    mesh, streams = mesh_of(params), {}
    for start in range(0, len(distinct), ROWS):
        group = distinct[start : start + ROWS]
        with using(mesh):
            batch = shared_batch(mesh, [list(tokens) for tokens in group], largest=ROWS)
            states = to_host(_stream(lower, lower_config, *batch))
        for tokens, row in zip(group, states, strict=False):
            streams[tokens] = row[: len(tokens)]
    return streams


@partial(jax.jit, static_argnames="config")
def _stream(params: Any, config: ModelConfig, tokens: jax.Array, positions: jax.Array) -> jax.Array:
    return hidden_states(params, config, tokens, positions, normed=False)[0]
