"""What several benchmarks time: prefill, decoding, a training step and a transfer table."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import Clock
from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation, prefill
from onceedit_jax.editing.batches import TrainingRow
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import Progress, train
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.relative.build import build_table
from onceedit_jax.types import Params


class Prompts(NamedTuple):
    """Random prompts of one length: tokens and positions, both `[B, T]` int32."""

    tokens: np.ndarray
    positions: np.ndarray


def random_prompts(config: ModelConfig, rows: int, length: int) -> Prompts:
    """Prompts of a model; the same at every call."""
    tokens = np.random.default_rng(0).integers(100, min(5000, config.num_tokens), (rows, length))
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return Prompts(tokens.astype(np.int32), positions)


def never(config: ModelConfig) -> StopTokens:
    """No token ends a row, so that all of a loop's steps run."""
    none = jnp.zeros(config.vocab_size, bool)
    return StopTokens(none, none, none)


@partial(jax.jit, static_argnames=("config", "room"))
def first_token(
    params: Params,
    config: ModelConfig,
    tokens: Any,
    positions: Any,
    *,
    room: int,
) -> jax.Array:
    """Prefill, and the token that follows."""
    state, _ = prefill(params, config, tokens, positions, room=room)
    return most_likely(unembed(params, config, state))


def writing(
    params: Params, config: ModelConfig, prompts: Prompts, *, steps: int
) -> dict[str, Callable[[], jax.Array]]:
    """What `seconds_each` times: `first`, the first token; and `whole`, all of `steps` tokens."""
    stops = never(config)

    def whole() -> jax.Array:
        return greedy_continuation(params, config, *prompts, stops, steps=steps).tokens

    return {
        "first": partial(first_token, params, config, *prompts, room=steps),
        "whole": whole,
    }


def decoding_seconds(first: float, whole: float, steps: int) -> float:
    """Mean seconds of a step after the first token."""
    return (whole - first) / (steps - 1)


def training_seconds(
    params: Params, config: ModelConfig, rows: Sequence[TrainingRow], settings: EditSettings
) -> list[float]:
    """Seconds of each step of training after the first epoch, in which it is compiled."""
    clock = Clock()

    def on_step(progress: Progress) -> None:
        clock.lap(counts=progress.epoch > 1)

    train(params, config, rows, settings, on_step=on_step)
    return clock.laps


class BuiltTable(NamedTuple):
    """A transfer table and what it took: seconds, and operations of the cosines alone."""

    table: Any
    seconds: float
    flops: float


def timed_table(embeddings: jax.Array, anchors: Any, num_tokens: int) -> BuiltTable:
    """Build a model's table once, compilation included if it is the first of its shape."""
    begun = time.perf_counter()
    table, _ = build_table(embeddings, jnp.asarray(anchors), num_tokens=num_tokens)
    jax.block_until_ready(table)
    seconds = time.perf_counter() - begun
    return BuiltTable(table, seconds, 2.0 * num_tokens * len(anchors) * embeddings.shape[1])
