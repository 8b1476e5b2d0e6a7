"""What locate-then-edit needs beside the edits: second moments of keys, texts before prompts."""

from collections.abc import Sequence
from typing import Any

import jax

from onceedit_jax.distributed.bucketing import bucket, pad_rows, row_positions
from onceedit_jax.editors.statistics import ridged, second_moment
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params
from onceedit_jax.text.tokenizer import Tokenizer

MAX_TOKENS = 64  # of a text that is no edit
OPENING = 8  # words of a text that a prompt may follow on


def openings(texts: Sequence[str], count: int) -> list[str]:
    """Beginnings of the first texts, which ROME and MEMIT put before a prompt."""
    return [" ".join(text.split()[:OPENING]) + "." for text in texts[:count]]


def text_batches(
    texts: Sequence[str], tokenizer: Tokenizer, *, height: int
) -> list[tuple[Any, Any]]:
    """Texts that are no edits as tokens and positions `[height, T]`, all of one shape."""
    rows = [tokenizer.encode(text)[:MAX_TOKENS] for text in texts]
    shape = {"width": bucket(max(map(len, rows))), "height": height}
    groups = [rows[i : i + height] for i in range(0, len(rows), height)]
    return [(pad_rows(g, **shape), row_positions([len(r) for r in g], **shape)) for g in groups]


def moments(
    params: Params,
    config: ModelConfig,
    batches: Sequence[tuple[Any, Any]],
    layers: Sequence[int],
    ridge: float,
) -> dict[int, jax.Array]:
    """Second moments of each layer's keys, `[F, F]`, with a ridge (see `statistics.ridged`)."""
    return {layer: ridged(second_moment(params, config, batches, layer), ridge) for layer in layers}
