"""What a pair will take on a mesh: its real shapes are compiled, without its weights.

A decoding step of each model is lowered with `jax.ShapeDtypeStruct`s that lie over the mesh, and
compiled; nothing of their size is ever allocated. Weights, caches and tables are then exact, by
their shapes; what the compiler sets aside in between is its own estimate, made for the CPU devices
that stand for the real ones. It is compiled in float32: a CPU widens anything narrower before it
multiplies, whole stacks of layers at once, and would report that.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from onceedit_jax.distributed.mesh import sharding, using
from onceedit_jax.models.argmax import most_likely
from onceedit_jax.models.assembly import held_shapes
from onceedit_jax.models.cache import CACHE_AXES, init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states, param_shapes, unembed
from onceedit_jax.models.sharding import fit_heads, fitted_config, param_shardings
from onceedit_jax.planning.costs import StepCosts, parameter_count, step_costs
from onceedit_jax.planning.hardware import Chip
from onceedit_jax.relative.build import ROW_ENTRIES

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}


@dataclasses.dataclass(frozen=True)
class Collective:
    """A kind of communication in a compiled step: how often, and bytes a device receives in all."""

    kind: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class ModelPlan:
    """One model's decoding step on a mesh; bytes are of one device, costs of all together.

    Attributes:
      parameters: of the model as published.
      heads: query and key/value heads, after they were made to divide among the devices.
      weights: bytes of parameters on a device.
      cache: bytes of keys and values on a device.
      table: bytes of its relative table (rules that have one; every device holds all of it).
      temporaries: bytes that the compiled step sets aside, as compiled for CPU.
      costs: arithmetic and traffic of the step.
      collectives: what the devices exchange in it.
    """

    parameters: int
    heads: tuple[int, int]
    weights: int
    cache: int
    table: int
    temporaries: int
    costs: StepCosts
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
      mesh: of as many devices as the real one; CPU devices will do.
      rows: answered at once.
      context: tokens a row has room for.
      dtype: of parameters, caches and products; int8 is for the layers' matrices, with bfloat16
        for the rest, as targets may be loaded.
    """
    parts = mesh.shape.get("tensor", 1)
    fitted = fitted_config(config, parts)
    shapes = jax.eval_shape(lambda params: fit_heads(params, config, parts), param_shapes(config))
    params = _laid(shapes, param_shardings(mesh, shapes))
    with using(mesh):
        empty = jax.eval_shape(lambda: init_cache(fitted, rows, context))
    cache = {
        name: _laid(leaf, sharding(mesh, CACHE_AXES[name], leaf.shape))
        for name, leaf in empty.items()
    }
    tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    tokens = _laid(tokens, sharding(mesh, ("batch", "length"), tokens.shape))

    def step(params: Any, cache: Any, tokens: jax.Array, positions: jax.Array) -> Any:
        hidden, longer = hidden_states(params, fitted, tokens, positions, cache)
        return most_likely(unembed(params, fitted, hidden[:, 0])), longer

    with using(mesh):
        compiled = jax.jit(step, donate_argnums=1).lower(params, cache, tokens, tokens).compile()
    memory = compiled.memory_analysis()
    small = dtype == "int8"
    wide = jnp.dtype("bfloat16" if small else dtype)
    size = wide.itemsize
    held = held_shapes(config, wide, eight_bits=small)
    laid = jax.eval_shape(lambda params: fit_heads(params, config, parts), held)
    laid = _laid(laid, param_shardings(mesh, laid))
    each = sum(_bytes_of(leaf) for leaf in jax.tree.leaves(held)) / parameter_count(config)
    return ModelPlan(
        parameters=parameter_count(config),
        heads=(fitted.num_heads, fitted.num_kv_heads),
        weights=sum(_bytes_of(leaf) for leaf in jax.tree.leaves(laid)),
        cache=sum(_bytes_of(cache[name]) for name in ("keys", "values")) * size // 4,
        table=table_bytes(config.vocab_size),
        temporaries=int(memory.temp_size_in_bytes) * size // 4 if memory else 0,
        costs=step_costs(
            fitted, rows=rows, context=context, weight_bytes=each, cache_itemsize=size
        ),
        collectives=tuple(collectives(compiled.as_text() or "")),
    )


def table_bytes(rows: int) -> int:
    """A top-k relative table: indices and values of each row's entries, and what is left of it."""
    return rows * (ROW_ENTRIES * 8 + 4)


def step_seconds(plan: ModelPlan, chip: Chip, devices: int) -> float:
    """The least time of a decoding step by the chip's peaks: the slower of arithmetic and memory.

    Split evenly over the devices; what they exchange comes on top, as if nothing overlapped.
    """
    busy = max(plan.costs.flops / chip.flops, plan.costs.bytes / chip.bandwidth) / devices
    return busy + sum(item.bytes for item in plan.collectives) / chip.link


def collectives(hlo: str) -> Iterator[Collective]:
    """Every kind of communication in a compiled program's text, loops counted as often as they run.

    Args:
      hlo: `compiled.as_text()`; it says how often a loop runs where that is known.
    """
    blocks = _computations(hlo)
    times = _times(blocks)
    found: dict[str, list[int]] = {}
    for name, lines in blocks.items():
        for line in lines:
            if match := re.search(rf"= (.+?) ({'|'.join(COLLECTIVES)})(-start)?\(", line):
                entry = found.setdefault(match[2], [0, 0])
                entry[0] += times.get(name, 1)
                entry[1] += times.get(name, 1) * _bytes(match[1])
    for kind, (count, size) in sorted(found.items()):
        yield Collective(kind, count, size)


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation of a program."""
    blocks: dict[str, list[str]] = {}
    current: list[str] = []
    for line in hlo.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            current = blocks.setdefault(head[1], [])
        else:
            current.append(line)
    return blocks


def _times(blocks: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs, as far as loops say so."""
    calls = [
        (caller, name, trips)
        for caller, lines in blocks.items()
        for line in lines
        for name, trips in _called(line)
    ]
    times: dict[str, int] = {}
    # Computations come before their callers: the last ones call the first ones.
    for caller, name, trips in reversed(calls):
        times[name] = times.get(caller, 1) * trips
    return times


def _called(line: str) -> Iterator[tuple[str, int]]:
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    for kind, name in re.findall(r"(body|to_apply|calls|condition)=%?([\w.-]+)", line):
        yield name, int(trips[1]) if trips and kind == "body" else 1


def _bytes(types: str) -> int:
    """Size of what an instruction gives: one array, or a tuple of them."""
    return sum(
        _ITEM_BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", types)
    )


def _laid(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        shardings,
    )


def _bytes_of(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of an array that one device holds; of the whole where it lies over none."""
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
