"""Parameters, arithmetic and memory traffic of a decoding step, from a configuration alone.

A decoding step computes one token for each row; everything before it is in the cache.
"""

import math
from typing import NamedTuple

import jax

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.parameters import param_shapes


class StepCosts(NamedTuple):
    """Costs of one decoding step.

    Attributes:
      flops: floating-point operations.
      bytes: bytes that have to move between memory and processor.
    """

    flops: float
    bytes: float


def parameter_count(config: ModelConfig) -> int:
    """Number of all parameters, embedding rows without a token included."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(config)))


def active_parameters(config: ModelConfig) -> int:
    """Number of parameters that every token is multiplied with: all but looked-up embeddings."""
    lookup = 0 if config.tie_embeddings else config.vocab_size * config.hidden_size
    learned = 0 if config.rope else config.max_positions * config.hidden_size
    return parameter_count(config) - lookup - learned


def cache_bytes(config: ModelConfig, tokens: int, *, itemsize: int = 2) -> int:
    """Bytes of the cached keys and values of `tokens` tokens."""
    return 2 * config.num_layers * config.num_kv_heads * config.head_dim * tokens * itemsize


def step_costs(
    config: ModelConfig,
    *,
    rows: int,
    context: int,
    weight_bytes: float = 2,
    cache_itemsize: int = 2,
) -> StepCosts:
    """Costs of a decoding step if every weight and every cached token is read exactly once.

    Args:
      config: the model's.
      rows: rows of the batch.
      context: cached tokens of each row.
      weight_bytes: bytes of a parameter.
      cache_itemsize: bytes of a cached number.
    """
    active = active_parameters(config)
    attended = 4 * config.num_layers * config.num_heads * config.head_dim * context
    moved = active * weight_bytes + rows * cache_bytes(config, context, itemsize=cache_itemsize)
    return StepCosts(rows * (2.0 * active + attended), float(moved))
