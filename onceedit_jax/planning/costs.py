"""Parameters, arithmetic and memory traffic of a model's passes, from a configuration alone.

A decoding step computes one token for each row; everything before it is in the cache.
"""

from typing import NamedTuple

from onceedit_jax.models.cache import cache_bytes
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.parameters import active_parameters
from onceedit_jax.planning.hardware import Chip


class StepCosts(NamedTuple):
    """Costs of one decoding step, or of another pass.

    Attributes:
      flops: floating-point operations.
      bytes: bytes that have to move between memory and processor.
    """

    flops: float
    bytes: float


def pass_flops(config: ModelConfig, *, tokens: int, attended: float, predictions: int) -> float:
    """Floating-point operations of a forward pass.

    Args:
      config: the model's.
      tokens: how many run.
      attended: pairs of a token and one that it attends to.
      predictions: tokens at which the vocabulary head runs.
    """
    head = config.vocab_size * config.hidden_size
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * attended
    return 2.0 * (tokens * (active_parameters(config) - head) + predictions * head) + attention


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
    flops = pass_flops(config, tokens=rows, attended=rows * context, predictions=rows)
    cached = rows * cache_bytes(config, context, itemsize=cache_itemsize)
    return StepCosts(flops, float(active_parameters(config) * weight_bytes + cached))


def prefill_costs(
    config: ModelConfig,
    *,
    rows: int,
    length: int,
    weight_bytes: float = 2,
    cache_itemsize: int = 2,
) -> StepCosts:
    """Costs of reading prompts, and of the first token after each, with every weight read once.

    Args:
      config: the model's.
      rows: number of prompts.
      length: tokens of each; a token attends to itself and to those before it.
      weight_bytes: bytes of a parameter.
      cache_itemsize: bytes of a cached number.
    """
    pairs = rows * length * (length + 1) / 2
    flops = pass_flops(config, tokens=rows * length, attended=pairs, predictions=rows)
    written = rows * cache_bytes(config, length, itemsize=cache_itemsize)
    return StepCosts(flops, float(active_parameters(config) * weight_bytes + written))


def least_seconds(costs: StepCosts, chip: Chip) -> float:
    """A lower bound for a pass on one device: the slower of arithmetic and memory traffic."""
    return max(costs.flops / chip.flops, costs.bytes / chip.bandwidth)
