"""What the parts of `benchmarks.accelerator` share: models with random weights, sizes and peaks.

The shapes are those of `configs/models/`. The weights are random, made on the device by a compiled
loop over the layers, so that neither the host nor the device ever holds them in float32.
"""

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.measure import seconds_each
from benchmarks.steps import (
    BuiltTable,
    decoding_seconds,
    random_prompts,
    timed_table,
    writing,
)
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.dtypes import ComputeDtype
from onceedit_jax.models.parameters import init_params, input_embeddings
from onceedit_jax.planning.costs import StepCosts, least_seconds, step_costs
from onceedit_jax.planning.hardware import Chip
from onceedit_jax.planning.pair import read_config
from onceedit_jax.types import Params

CONFIGS = Path(__file__).parents[1] / "configs" / "models"
# Of weights, caches and operands of products, as the library has it on a GPU or TPU.
COMPUTE: ComputeDtype = "bfloat16"

Row = dict[str, Any]


class Model(NamedTuple):
    """A model of the benchmark: the name of its configuration, and the configuration."""

    name: str
    config: ModelConfig


class Pair(NamedTuple):
    """A plug-in, a target, and how many tokens of their vocabularies are taken as shared."""

    plugin: Model
    target: Model
    shared: int

    @property
    def name(self) -> str:
        """Both models' names."""
        return f"{self.plugin.name} + {self.target.name}"

    def anchors(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens `[A]` of the plug-in, in order, and those of the target that stand for them."""
        sizes = [model.config.num_tokens for model in (self.plugin, self.target)]
        count = min(self.shared, *sizes)
        rng = np.random.default_rng(0)
        plugin, target = (rng.permutation(size)[:count].astype(np.int32) for size in sizes)
        return np.sort(plugin), target


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
      batches: rows of the target's decoding and of a fused step.
      prompt: tokens before what is written.
      written: tokens that a decoding loop writes.
      prefills: rows and tokens of each measured prefill.
      repeats: timed runs of each candidate, after one to warm up.
      fused: steps of a loop of fused steps.
      searched: the same with the search of `deepen`, which takes long.
      answer: tokens of an answer by drafts.
      draft: tokens of a draft.
      training: rows of a training step; each has `row` tokens.
      row: tokens of a training row; the last quarter are its target.
      compared: hidden size, layers and vocabulary of the models that also run on the CPU.
    """

    batches: tuple[int, ...] = (1, 16, 64)
    prompt: int = 128
    written: int = 128
    prefills: tuple[tuple[int, int], ...] = ((1, 512), (16, 512))
    repeats: int = 3
    fused: int = 50
    searched: int = 2
    answer: int = 32
    draft: int = 8
    training: tuple[int, ...] = (16, 128)
    row: int = 32
    compared: tuple[int, int, int] = (256, 4, 4096)


TINY_SIZES = Sizes(
    batches=(1, 4),
    prompt=16,
    written=8,
    prefills=((1, 16),),
    repeats=1,
    fused=3,
    searched=1,
    answer=8,
    draft=4,
    training=(4,),
    row=16,
    compared=(64, 2, 512),
)
TINY = (64, 2, 512)  # hidden size, layers and vocabulary of --tiny


def pairs(*, tiny: bool) -> list[Pair]:
    """The pairs that are measured.

    TinyLlama and Llama 2 have one tokenizer: all tokens but the end are shared, and the end is
    added. SmolLM2 and Qwen 2.5 share as many as their tokenizers do.
    """
    named = (
        ("tinyllama-1.1b", "llama2-7b", 31_999),
        ("smollm2-135m", "qwen2.5-7b", 39_236),
    )
    return [Pair(_model(plugin, tiny), _model(target, tiny), n) for plugin, target, n in named]


def _model(name: str, tiny: bool) -> Model:
    config = read_config(CONFIGS / f"{name}.json").with_compute_dtype(COMPUTE)
    return Model(name, shrunk(config, *TINY) if tiny else config)


def shrunk(config: ModelConfig, hidden: int, layers: int, vocabulary: int) -> ModelConfig:
    """A small model of the same family, with four heads of 16 or more numbers."""
    heads, size = 4, hidden // 4
    groups = config.num_heads // config.num_kv_heads
    return dataclasses.replace(
        config,
        vocab_size=vocabulary,
        num_tokens=vocabulary,
        hidden_size=hidden,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=max(1, heads // groups),
        head_dim=size,
        mlp_size=2 * hidden,
        rope=config.rope and dataclasses.replace(config.rope, dim=size),
        sliding_layers=(),
        rope_layers=(),
    )


def _layer_by_layer(config: ModelConfig) -> tuple[Any, ...]:
    """The configuration of one layer, and keys of all that is in no layer and of each layer."""
    one = dataclasses.replace(config, num_layers=1, sliding_layers=(), rope_layers=())
    return one, *jax.random.split(jax.random.key(0, impl="rbg"), config.num_layers + 1)


@partial(jax.jit, static_argnames=("config", "dtype"))
def random_params(config: ModelConfig, dtype: str) -> Params:
    """`init_params` layer by layer: one layer at a time exists in float32."""
    one, outer, *keys = _layer_by_layer(config)

    def layer(key: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: leaf[0], init_params(one, key, dtype)["layers"])

    return {**init_params(one, outer, dtype), "layers": jax.lax.map(layer, jnp.stack(keys))}


def unstacked_params(config: ModelConfig, dtype: str) -> Params:
    """Random parameters with unstacked layers, made one by one: there is never a stack of them."""
    one, outer, *keys = _layer_by_layer(config)
    make = jax.jit(partial(init_params, one, dtype=dtype))
    return {**make(outer), "layers": tuple(make(key)["layers"] for key in keys)}


class Measurement(NamedTuple):
    """One row to be: what it is of, and the function that measures the rest."""

    labels: Row
    run: Callable[[], Row]


class Part(NamedTuple):
    """A table of the page.

    Attributes:
      name: for `--parts`, and the key in the JSON file.
      heading: over the table.
      measurements: from the bench and a pair to the rows.
      note: what a reader has to know.
    """

    name: str
    heading: str
    measurements: Callable[["Bench", Pair], Iterator[Measurement]]
    note: str


class Bench:
    """The device's peaks, sizes, and what one pair's parts have in common.

    Attributes:
      sizes: how much is measured.
      chip: the device's peaks; None for a device whose peaks nobody has named.
    """

    def __init__(self, sizes: Sizes, chip: Chip | None) -> None:
        """Begin with nothing in memory."""
        self.sizes, self.chip = sizes, chip
        self._pair: Pair | None = None
        self._kept: dict[Any, Any] = {}
        self._steps: dict[tuple[str, int], float] = {}

    def use(self, pair: Pair) -> None:
        """Drop another pair's weights and tables."""
        if pair != self._pair:
            self.drop()
        self._pair = pair

    def drop(self) -> None:
        """Drop all weights and tables."""
        self._kept.clear()

    def params(self, model: Model, *, stacked: bool = True) -> Params:
        """A model's random weights in bfloat16; they stay until the next pair or other layout."""
        self._kept.pop(("params", model.name, not stacked), None)  # memory may hold one only
        make = random_params if stacked else unstacked_params
        return self._once(("params", model.name, stacked), lambda: make(model.config, COMPUTE))

    def tables(self, pair: Pair) -> tuple[BuiltTable, BuiltTable]:
        """Both transfer tables of a pair, built the first time; they stay until the next pair."""

        def build() -> tuple[BuiltTable, BuiltTable]:
            sides = zip((pair.plugin, pair.target), pair.anchors(), strict=True)
            plugin, target = (self.built(model, anchors) for model, anchors in sides)
            return plugin, target

        return self._once(("tables", pair.name), build)

    def built(self, model: Model, anchors: np.ndarray) -> BuiltTable:
        """One transfer table, built again at every call."""
        return timed_table(input_embeddings(self.params(model)), anchors, model.config.num_tokens)

    def step_seconds(self, model: Model, rows: int) -> float:
        """Seconds of a model's decoding step with unstacked layers, measured the first time."""
        if (model.name, rows) not in self._steps:
            params = self.params(model, stacked=False)
            self._steps[model.name, rows] = self.decoding(params, model.config, rows)
        return self._steps[model.name, rows]

    def step_costs(self, model: Model, rows: int) -> StepCosts:
        """Costs of that step; in the mean, half of what the loop writes is in the cache."""
        context = self.sizes.prompt + self.sizes.written // 2
        return step_costs(model.config, rows=rows, context=context)

    def decoding(self, params: Params, config: ModelConfig, rows: int) -> float:
        """Seconds of a decoding step within the library's compiled loop."""
        prompts, steps = random_prompts(config, rows, self.sizes.prompt), self.sizes.written
        loops = writing(params, config, prompts, steps=steps)
        taken = seconds_each(loops, repeats=self.sizes.repeats)
        return decoding_seconds(taken["first"], taken["whole"], steps)

    def beside(self, seconds: float, costs: StepCosts, *shares: str) -> Row:
        """What the peaks say of a measurement: its shares of them, and the plan's least time.

        Nothing where the peaks are not known.

        Args:
          seconds: that were measured.
          costs: what has to be computed and moved.
          shares: `bandwidth`, `FLOP/s` or both.
        """
        if self.chip is None:
            return {}
        used = {
            "bandwidth": costs.bytes / self.chip.bandwidth,
            "FLOP/s": costs.flops / self.chip.flops,
        }
        least = least_seconds(costs, self.chip)
        return {
            **{f"share of peak {name}": used[name] / seconds for name in shares},
            "plan, ms": 1e3 * least,
            "measured / plan": seconds / least,
        }

    def _once(self, key: Any, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]
