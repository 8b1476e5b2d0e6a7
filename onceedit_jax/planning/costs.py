"""Parameters, arithmetic and memory traffic of a model's passes, from a configuration alone.

A decoding step computes one token for each row; everything before it is in the cache. Times come
in two kinds: the least by the peaks of a device, and what is expected of this library on it.
"""

from typing import NamedTuple

from onceedit_jax.models.cache import cache_bytes
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.parameters import active_parameters
from onceedit_jax.planning.hardware import Chip

# Fitted to the decoding steps and prefills in bfloat16 that were measured on one NVIDIA H200
# (benchmarks/results/accelerator.md): all eleven lie between .70 and 1.28 of the times that follow.
WEIGHTS_SHARE = 0.87  # of the peak bandwidth, reading weights
CACHE_SHARE = 0.5  # of the peak bandwidth, reading keys and values
STEP_LAYER_SECONDS = 43e-6  # programs begin one after another, however little they do
FLOPS_SHARE = 0.48  # of the peak arithmetic
PREFILL_LAYER_SECONDS = 180e-6


class StepCosts(NamedTuple):
    """Costs of one decoding step, or of another pass.

    Attributes:
      flops: floating-point operations.
      bytes: bytes that have to move between memory and processor.
      cached: those of them that are keys and values.
      layers: layers of the model.
    """

    flops: float
    bytes: float
    cached: float
    layers: int


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
    weights = active_parameters(config) * weight_bytes
    return StepCosts(flops, float(weights + cached), float(cached), config.num_layers)


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
    weights = active_parameters(config) * weight_bytes
    return StepCosts(flops, float(weights + written), float(written), config.num_layers)


def least_seconds(costs: StepCosts, chip: Chip) -> float:
    """A lower bound for a pass on one device: the slower of arithmetic and memory traffic."""
    return max(costs.flops / chip.flops, costs.bytes / chip.bandwidth)


def expected_step_seconds(
    costs: StepCosts, chip: Chip, *, devices: int = 1, parts: int = 1
) -> float:
    """What a decoding step is expected to take, with the shares that were measured on one H200.

    Args:
      costs: of the step, over all devices.
      chip: each device; it is supposed to reach the same shares of its peaks.
      devices: that share arithmetic and cache evenly.
      parts: of the devices' axis `tensor`: so many share the weights, all others read them whole.
    """
    return _busy_seconds(costs, chip, devices, parts) + costs.layers * STEP_LAYER_SECONDS


def expected_prefill_seconds(
    costs: StepCosts, chip: Chip, *, devices: int = 1, parts: int = 1
) -> float:
    """What reading prompts is expected to take; the arguments are those of a step."""
    return _busy_seconds(costs, chip, devices, parts) + costs.layers * PREFILL_LAYER_SECONDS


def _busy_seconds(costs: StepCosts, chip: Chip, devices: int, parts: int) -> float:
    weights = (costs.bytes - costs.cached) / (WEIGHTS_SHARE * parts)
    moved = (weights + costs.cached / (CACHE_SHARE * devices)) / chip.bandwidth
    return max(moved, costs.flops / (FLOPS_SHARE * chip.flops * devices))
