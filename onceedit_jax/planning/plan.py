"""Plan a model on a mesh: compile a decoding step for its real shapes, without its weights.

The step is lowered with `jax.ShapeDtypeStruct`s that have shardings over the mesh, and compiled;
nothing of the model's size is allocated. Weights, caches and tables follow exactly from their
shapes. The memory for temporaries is the compiler's own estimate, for CPU devices in place of the
real ones. The step is compiled in float32, because on CPU narrower types are widened before a
product, whole stacks of layers at once, which the estimate would include.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from onceedit_jax.distributed.mesh import sharding, using
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.assembly import stored_shapes
from onceedit_jax.models.cache import CACHE_AXES, init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, unembed
from onceedit_jax.models.parameters import param_shapes, parameter_count
from onceedit_jax.models.sharding import fit_heads, fitted_config, param_shardings
from onceedit_jax.planning.collectives import Collective, collectives
from onceedit_jax.planning.costs import (
    StepCosts,
    expected_prefill_seconds,
    expected_step_seconds,
    least_seconds,
    prefill_costs,
    step_costs,
)
from onceedit_jax.planning.hardware import Chip
from onceedit_jax.relative.build import ROW_ENTRIES

PROMPT_TOKENS = 64  # of the prompts that times are expected for


@dataclass(frozen=True)
class ModelPlan:
    """One model's decoding step on a mesh. Bytes are per device, costs of all devices together.

    Attributes:
      parameters: number of parameters of the published model.
      parts: devices of the axis `tensor`, which share the weights of a layer.
      heads: query and key/value heads, after they are made to divide among the devices.
      weights: bytes of parameters.
      cache: bytes of keys and values.
      table: bytes of the relative table (every device holds all of it; some rules need none).
      temporaries: bytes that the compiled step allocates, as compiled for CPU.
      costs: arithmetic and memory traffic of the step.
      reading: the same of reading prompts of `PROMPT_TOKENS` tokens.
      collectives: communication between the devices in the step.
    """

    parameters: int
    parts: int
    heads: tuple[int, int]
    weights: int
    cache: int
    table: int
    temporaries: int
    costs: StepCosts
    reading: StepCosts
    collectives: tuple[Collective, ...]

    @property
    def resident(self) -> int:
        """Bytes on a device between steps."""
        return self.weights + self.cache + self.table


def plan_model(
    config: ModelConfig, mesh: Mesh, *, rows: int, context: int, dtype: str = "bfloat16"
) -> ModelPlan:
    """Compile a model's decoding step for a mesh, from its configuration.

    Args:
      config: the model's.
      mesh: with as many devices as the real one; CPU devices will do.
      rows: rows that are answered at once.
      context: capacity of the cache, in tokens of each row.
      dtype: of parameters, caches and products; with int8, matrices have eight bits,
        embeddings are float16 and the rest is bfloat16, as in `load_model`.
    """
    parts = mesh.shape.get("tensor", 1)
    fitted = fitted_config(config, parts)
    step = _compiled_step(config, mesh, rows=rows, context=context)
    memory = step.memory_analysis()
    eight_bits = dtype == "int8"
    float_dtype = jnp.dtype("bfloat16" if eight_bits else dtype)
    itemsize = float_dtype.itemsize
    stored = stored_shapes(config, float_dtype, eight_bits=eight_bits)
    laid = jax.eval_shape(lambda params: fit_heads(params, config, parts), stored)
    laid = _with_shardings(laid, param_shardings(mesh, laid))
    count = parameter_count(config)
    weight_bytes = _device_bytes(stored) / count
    of_step = partial(step_costs, fitted, weight_bytes=weight_bytes, cache_itemsize=itemsize)
    of_prefill = partial(prefill_costs, fitted, weight_bytes=weight_bytes, cache_itemsize=itemsize)
    return ModelPlan(
        parameters=count,
        parts=parts,
        heads=(fitted.num_heads, fitted.num_kv_heads),
        weights=_device_bytes(laid),
        cache=_device_bytes(_cache_shapes(fitted, mesh, rows, context, "keys", "values"))
        * itemsize
        // 4,
        table=table_bytes(config.vocab_size),
        temporaries=int(memory.temp_size_in_bytes) * itemsize // 4 if memory else 0,
        costs=of_step(rows=rows, context=context),
        reading=of_prefill(rows=rows, length=PROMPT_TOKENS),
        collectives=tuple(collectives(step.as_text() or "")),
    )


def table_bytes(rows: int) -> int:
    """Bytes of a top-k relative table: index and value of each entry, and a remainder per row."""
    return rows * (ROW_ENTRIES * 8 + 4)


def step_seconds(plan: ModelPlan, chip: Chip, devices: int) -> float:
    """A lower bound for the time of a decoding step, from the chip's peak figures.

    The slower of arithmetic and memory traffic, split evenly over the devices, plus the
    communication between them, without overlap.
    """
    return least_seconds(plan.costs, chip) / devices + _exchange_seconds(plan, chip)


def expected_seconds(plan: ModelPlan, chip: Chip, devices: int) -> float:
    """What a decoding step is expected to take, see `expected_step_seconds`; with communication."""
    busy = expected_step_seconds(plan.costs, chip, devices=devices, parts=plan.parts)
    return busy + _exchange_seconds(plan, chip)


def reading_seconds(plan: ModelPlan, chip: Chip, devices: int) -> float:
    """What reading prompts of `PROMPT_TOKENS` tokens, and a first token, is expected to take."""
    busy = expected_prefill_seconds(plan.reading, chip, devices=devices, parts=plan.parts)
    # What is reduced are activations, which grow with the tokens; what is gathered are weights.
    return busy + _exchange_seconds(plan, chip, tokens=PROMPT_TOKENS)


def _exchange_seconds(plan: ModelPlan, chip: Chip, *, tokens: int = 1) -> float:
    """Seconds of the exchanges for so many tokens a row."""
    sizes = (item.bytes * (tokens if "reduce" in item.kind else 1) for item in plan.collectives)
    return sum(sizes) / chip.link


def _compiled_step(
    config: ModelConfig, mesh: Mesh, *, rows: int, context: int
) -> jax.stages.Compiled:
    parts = mesh.shape.get("tensor", 1)
    fitted = fitted_config(config, parts)
    shapes = jax.eval_shape(lambda params: fit_heads(params, config, parts), param_shapes(config))
    params = _with_shardings(shapes, param_shardings(mesh, shapes))
    cache = _cache_shapes(fitted, mesh, rows, context, *CACHE_AXES)
    tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    tokens = _with_shardings(tokens, sharding(mesh, ("batch", "length"), tokens.shape))

    def step(params: Any, cache: Any, tokens: jax.Array, positions: jax.Array) -> Any:
        hidden, longer = hidden_states(params, fitted, tokens, positions, cache)
        return most_likely(unembed(params, fitted, hidden[:, 0])), longer

    with using(mesh):
        return jax.jit(step, donate_argnums=1).lower(params, cache, tokens, tokens).compile()


def _cache_shapes(
    config: ModelConfig, mesh: Mesh, rows: int, context: int, *names: str
) -> dict[str, Any]:
    """Some of a cache's arrays as shapes with shardings, in float32."""
    with using(mesh):
        empty = jax.eval_shape(lambda: init_cache(config, rows, context))
    return {
        name: _with_shardings(empty[name], sharding(mesh, CACHE_AXES[name], empty[name].shape))
        for name in names
    }


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, layout: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=layout),
        shapes,
        shardings,
    )


def _device_bytes(tree: Any) -> int:
    """Bytes of a tree's arrays on one device; of the whole arrays if they have no shardings."""
    return sum(
        math.prod(leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape))
        * int(leaf.dtype.itemsize)
        for leaf in jax.tree.leaves(tree)
    )
