"""What a model takes, from its configuration alone: parameters, arithmetic, memory traffic.

Counts are of a decoding step: one token a row, everything before it cached.
"""

import math
from typing import NamedTuple

import jax

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import param_shapes


class StepCosts(NamedTuple):
    """One decoding step of B rows: floating-point operations, and bytes that have to move."""

    flops: float
    bytes: float


def parameter_count(config: ModelConfig) -> int:
    """Every parameter, embedding rows of no token included."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(config)))


def active_parameters(config: ModelConfig) -> int:
    """Those that every token is multiplied with: all but the embedding's lookup."""
    lookup = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    learned = 0 if config.rope else config.max_positions * config.hidden_size
    return parameter_count(config) - lookup - learned


def cache_bytes(config: ModelConfig, tokens: int, *, itemsize: int = 2) -> int:
    """Keys and values of so many tokens."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * tokens * itemsize


def step_costs(
    config: ModelConfig,
    *,
    rows: int,
    context: int,
    weight_bytes: float = 2,
    cache_itemsize: int = 2,
) -> StepCosts:
    """A decoding step, as arithmetic and least traffic: every weight and cached token read once.

    Args:
      config: the model's.
      rows: B.
      context: tokens that each row has cached.
      weight_bytes: of a parameter in memory.
      cache_itemsize: bytes of a cached number.
    """
    active = active_parameters(config)
    attended = 4 * config.num_layers * config.num_heads * config.head_dim * context
    moved = active * weight_bytes + rows * cache_bytes(config, context, itemsize=cache_itemsize)
    return StepCosts(rows * (2.0 * active + attended), float(moved))
