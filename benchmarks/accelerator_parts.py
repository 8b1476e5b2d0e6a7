"""Parts of `benchmarks.accelerator` with one model each: decoding, prefill, training, tables."""

import dataclasses
import statistics
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator_bench import (
    Bench,
    Measurement,
    Model,
    Pair,
    Part,
    Row,
    random_params,
    shrunk,
)
from benchmarks.measure import seconds_each
from benchmarks.steps import first_token, never, random_prompts, training_seconds
from onceedit_jax.decoding.greedy import Continuation, greedy_continuation
from onceedit_jax.editing.batches import TrainingRow
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainable import ADAPTED, last_layers_of
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.parameters import param_shapes
from onceedit_jax.planning.costs import pass_flops, prefill_costs

STEPS = 6  # of a training epoch; the second of two epochs is timed


def _decoding(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for model, batches in ((pair.target, bench.sizes.batches), (pair.plugin, (1,))):
        for rows in batches:
            run = partial(_decoded, bench, model, rows)
            yield Measurement({"model": model.name, "batch": rows}, run)


def _decoded(bench: Bench, model: Model, rows: int) -> Row:
    return _of_step(bench, model, rows, bench.step_seconds(model, rows))


def _of_step(bench: Bench, model: Model, rows: int, seconds: float) -> Row:
    costs = bench.step_costs(model, rows)
    return {
        "tokens/s": rows / seconds,
        "step, ms": 1e3 * seconds,
        "GB a step": costs.bytes / 1e9,
        **bench.beside(seconds, costs, "bandwidth"),
    }


def _prefill(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for model, sizes in (
        (pair.target, bench.sizes.prefills),
        (pair.plugin, bench.sizes.prefills[:1]),
    ):
        for rows, length in sizes:
            run = partial(_prefilled, bench, model, rows, length)
            yield Measurement({"model": model.name, "batch": rows, "prompt": length}, run)


def _prefilled(bench: Bench, model: Model, rows: int, length: int) -> Row:
    params, config = bench.params(model), model.config
    prompts = random_prompts(config, rows, length)
    run = partial(first_token, params, config, *prompts, room=1)
    seconds = seconds_each({"run": run}, repeats=bench.sizes.repeats)["run"]
    costs = prefill_costs(config, rows=rows, length=length)
    return {
        "tokens/s": rows * length / seconds,
        "ms": 1e3 * seconds,
        "TFLOP": costs.flops / 1e12,
        **bench.beside(seconds, costs, "FLOP/s"),
    }


def _other_ways(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    config = pair.target.config
    ways = {
        "layers stacked, and scanned": (config, True),
        "products in float32": (config.with_compute_dtype("float32"), False),
    }
    for name, (config, stacked) in ways.items():

        def run(config: ModelConfig = config, stacked: bool = stacked) -> Row:
            seconds = bench.decoding(bench.params(pair.target, stacked=stacked), config, 1)
            usual = bench.step_seconds(pair.target, 1)
            return {
                **_of_step(bench, pair.target, 1, seconds),
                "times as long as the usual step": seconds / usual,
            }

        yield Measurement({"model": pair.target.name, "batch": 1, "way": name}, run)


def _training(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for method in ("full", "adapter"):
        for rows in bench.sizes.training:
            labels = {"model": pair.plugin.name, "method": method, "rows a step": rows}
            yield Measurement(labels, partial(_trained, bench, pair.plugin, method, rows))


def _trained(bench: Bench, model: Model, method: Any, rows: int) -> Row:
    bench.drop()  # float32 weights, gradients and moments take eight times the room
    config, width = model.config, bench.sizes.row
    params = random_params(config, "float32")
    settings = EditSettings(
        method=method, batch_size=rows, epochs=2, early_stop=0, learning_rate=1e-5
    )
    taken = training_seconds(
        params, config, _rows(config.num_tokens, rows * STEPS, width), settings
    )
    seconds = statistics.median(taken)
    # A backward pass computes a gradient of the states, and one of the weights if they are trained.
    passes = 3 if method == "full" else 2
    if method == "adapter":
        layers = last_layers_of(param_shapes(config), None, ADAPTED)
        config = dataclasses.replace(config, num_layers=layers, sliding_layers=(), rope_layers=())
    flops = passes * pass_flops(
        config,
        tokens=rows * width,
        attended=rows * width * (width + 1) / 2,
        predictions=rows * (width // 4),
    )
    return {
        "tokens/s": rows * width / seconds,
        "step, ms": 1e3 * seconds,
        "TFLOP": flops / 1e12,
        **_share_of_flops(bench, seconds, flops),
    }


def _rows(vocabulary: int, count: int, width: int) -> list[TrainingRow]:
    tokens = np.random.default_rng(0).integers(0, vocabulary, (count, width))
    start = width - width // 4
    return [
        TrainingRow(tuple(row), start, related=i % 2 == 0) for i, row in enumerate(tokens.tolist())
    ]


def _share_of_flops(bench: Bench, seconds: float, flops: float) -> Row:
    return {"share of peak FLOP/s": flops / bench.chip.flops / seconds} if bench.chip else {}


def _tables(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for index, model in enumerate((pair.plugin, pair.target)):

        def run(index: int = index, model: Model = model) -> Row:
            bench.tables(pair)  # compiles
            built = bench.built(model, pair.anchors()[index])
            return {
                "built, s": built.seconds,
                "TFLOP": built.flops / 1e12,
                **_share_of_flops(bench, built.seconds, built.flops),
            }

        labels = {
            "model": model.name,
            "tokens": model.config.num_tokens,
            "anchors": len(pair.anchors()[index]),
        }
        yield Measurement(labels, run)


def _same_tokens(bench: Bench, pair: Pair) -> Iterator[Measurement]:
    for model in (pair.plugin, pair.target):
        yield Measurement({"family of": model.name}, partial(_compared, bench, model))


def _compared(bench: Bench, model: Model) -> Row:
    config, rows = shrunk(model.config, *bench.sizes.compared).with_compute_dtype("float32"), 8
    params = random_params(config, "float32")
    prompts = random_prompts(config, rows, 16)

    def on(device: jax.Device) -> Continuation:
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            arguments = jax.device_put((params, prompts, never(config)), device)
            here, texts, stops = arguments
            return greedy_continuation(here, config, *texts, stops, steps=32)

    ours, theirs = (
        jax.tree.map(np.asarray, on(device)) for device in (jax.devices()[0], jax.devices("cpu")[0])
    )
    equal = ours.tokens == theirs.tokens
    apart = np.abs(ours.probabilities - theirs.probabilities) / theirs.probabilities
    return {
        "tokens": equal.size,
        "the same": int(equal.sum()),
        "rows that are the same": f"{int(equal.all(axis=1).sum())} of {rows}",
        "most that a first token's probability differs by": float(apart[:, 0].max()),
    }


DECODING = Part(
    "decoding",
    "Decoding: the target alone, and the plug-in alone",
    _decoding,
    "One compiled loop writes all tokens (`greedy_continuation`); the time of a first token is "
    "taken off, and the rest divided by the steps. Layers are unstacked, as in a server and where "
    "many answers are asked for. Weights, cache and operands are bfloat16, sums are float32. "
    "`GB a step` is every weight and every cached token once, and the share is these bytes over "
    "the time and the peak.",
)
PREFILL = Part(
    "prefill",
    "Prefill: from the prompts to their first tokens",
    _prefill,
    "Operations are those of the matrix products, attention to earlier tokens only, and the "
    "vocabulary head at the last token of each row.",
)
TRAINING = Part(
    "editing",
    "A step of editing the plug-in",
    _training,
    "As the trainer does by default: on a GPU or TPU products have bfloat16 operands; weights, "
    "gradients and sums are float32. A step is as the trainer runs it, with its batch made on the "
    "host. `full` counts three forward passes, `adapter` two through the last quarter of the "
    "layers; the layers below ran once, before.",
)
TABLES = Part(
    "tables",
    "Both transfer tables",
    _tables,
    "A second build, so that nothing is compiled. The operations are those of the cosines alone; "
    "the time has also the exponentials, the largest 64 of each row, and the way to the host.",
)
SAME_TOKENS = Part(
    "same-tokens",
    "The same tokens as on the CPU",
    _same_tokens,
    "A small random model of the same family writes 32 tokens after each of 8 prompts, on the "
    "device and on the CPU, in float32 with products at full precision. The probabilities are "
    "compared relatively.",
)
OTHER_WAYS = Part(
    "other-ways",
    "The target's decoding step in other ways",
    _other_ways,
    "A scan over stacked layers copies each layer's weights at every step, and compiles faster.",
)
