"""Plans against published counts, XLA's own analysis, and arrays that really lie on devices."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest
from support import ROOT, tiny_config

from benchmarks.accelerator_bench import Sizes
from onceedit_jax.distributed.mesh import data_mesh
from onceedit_jax.models.cache import cache_bytes, init_cache
from onceedit_jax.models.decoder import forward, hidden_states, unembed
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.models.parameters import active_parameters, init_params, parameter_count
from onceedit_jax.planning.collectives import Collective, collectives
from onceedit_jax.planning.costs import (
    CACHE_SHARE,
    STEP_LAYER_SECONDS,
    WEIGHTS_SHARE,
    expected_prefill_seconds,
    expected_step_seconds,
    prefill_costs,
    step_costs,
)
from onceedit_jax.planning.hardware import CHIPS, chip_of
from onceedit_jax.planning.plan import plan_model, reading_seconds, step_seconds

MODELS = ROOT / "configs" / "models"
# As their publishers count them, in billions.
PUBLISHED = {
    "tinyllama-1.1b": 1.10,
    "qwen2.5-1.5b": 1.54,
    "llama2-7b": 6.74,
    "mistral-7b-v0.1": 7.24,
    "mistral-7b-v0.3": 7.25,
    "gpt-j-6b": 6.05,
    "llama3-8b": 8.03,
    "qwen2.5-7b": 7.62,
    "llama3-70b": 70.55,
    "smollm2-135m": 0.135,
}


def config_of(name):
    return config_from_hf(json.loads((MODELS / f"{name}.json").read_text()))


def test_every_model_of_the_paper_has_its_parameters():
    assert {path.stem for path in MODELS.glob("*.json")} == PUBLISHED.keys()
    for name, billions in PUBLISHED.items():
        assert parameter_count(config_of(name)) / 1e9 == pytest.approx(billions, rel=4e-3), name


RUNNING = """
import jax
import numpy as np
from onceedit_jax.ensemble.target import load_target
from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation

rows, context, prompt = 8, 128, 32
target = load_target("demo:smollm2-135m")
none = np.zeros(target.model.config.vocab_size, bool)
tokens = np.full((rows, prompt), 5, np.int32)
positions = np.broadcast_to(np.arange(prompt, dtype=np.int32), tokens.shape)
weights = sum(leaf.nbytes for leaf in jax.tree.leaves(target.model.params))
run = greedy_continuation.lower(
    target.model.params, target.model.config, tokens, positions, StopTokens(none, none, none),
    steps=context - prompt,
).compile()
# What the program is given, and what it sets aside: the cache, and the temporaries of a step.
memory = run.memory_analysis()
run(target.model.params, tokens, positions, StopTokens(none, none, none))
print("took", weights, memory.argument_size_in_bytes + memory.temp_size_in_bytes)
"""


@pytest.mark.slow
def test_what_a_real_model_takes_is_what_was_planned():
    model = config_of("smollm2-135m")
    one = data_mesh(jax.devices()[:1])
    plan = plan_model(model, one, rows=8, context=128, dtype="float32")
    done = subprocess.run(
        [sys.executable, "-c", RUNNING], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    weights, whole = map(int, re.findall(r"took (\d+) (\d+)", done.stdout)[0])
    print(plan.weights / weights, (plan.weights + plan.cache + plan.temporaries) / whole)
    assert plan.weights == pytest.approx(weights, rel=0.15)
    assert plan.weights + plan.cache + plan.temporaries == pytest.approx(whole, rel=0.15)


@pytest.mark.parametrize("tied", [True, False])
def test_arithmetic_is_what_xla_counts(tied):
    config = tiny_config(512, hidden_size=64, mlp_size=256, head_dim=16, tie_embeddings=tied)
    params = unstack_layers(init_params(config, jax.random.key(0)))
    rows, context = 4, 32
    cache = init_cache(config, rows, context)
    one = jnp.zeros((rows, 1), jnp.int32)
    compiled = jax.jit(forward, static_argnums=1).lower(params, config, one, one, cache).compile()
    counted = compiled.cost_analysis()["flops"]
    assert step_costs(config, rows=rows, context=context).flops == pytest.approx(counted, rel=0.08)


def test_a_cache_takes_what_it_says():
    config = tiny_config(57)
    cache = init_cache(config, 3, 20, jnp.bfloat16)
    assert cache["keys"].nbytes + cache["values"].nbytes == 3 * cache_bytes(config, 20)
    assert active_parameters(config) == parameter_count(config)  # tied: the lookup is the head


def test_one_device_holds_what_its_arrays_take_and_exchanges_nothing():
    config = tiny_config(57, num_heads=9, num_kv_heads=3)
    plan = plan_model(config, data_mesh(jax.devices()[:1]), rows=2, context=16, dtype="float32")
    params = init_params(config, jax.random.key(0))
    assert plan.weights == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert plan.cache == 2 * cache_bytes(config, 16, itemsize=4)
    assert plan.heads == (9, 3) and plan.collectives == ()
    half = plan_model(config, data_mesh(jax.devices()[:1]), rows=2, context=16)
    assert half.weights * 2 == plan.weights


def test_a_loop_counts_as_often_as_it_runs():
    hlo = """
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (carry: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %r = f32[4,8]{1,0} all-reduce(%x), channel_id=1, to_apply=%add
  %g = (f32[8,8]{1,0}, bf16[2]{0}) all-gather(%x, %y), dimensions={0}
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %w = (s32[], f32[4,8]) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %last = f32[4]{0} all-reduce-start(%z), to_apply=%add
}
"""  # noqa: E501
    assert list(collectives(hlo)) == [
        Collective("all-gather", 5, 5 * (8 * 8 * 4 + 2 * 2)),
        Collective("all-reduce", 6, 5 * 4 * 8 * 4 + 4 * 4),
    ]


def test_a_step_waits_for_memory_or_for_arithmetic():
    config, chip = config_of("smollm2-135m"), CHIPS["h100"]
    mesh = data_mesh(jax.devices()[:1])
    few, many = (plan_model(config, mesh, rows=rows, context=8) for rows in (1, 4096))
    assert step_seconds(few, chip, 1) == pytest.approx(few.costs.bytes / chip.bandwidth)
    assert step_seconds(many, chip, 1) == pytest.approx(many.costs.flops / chip.flops)


def test_every_step_measured_on_a_gpu_is_within_half_of_what_is_expected():
    results = json.loads((ROOT / "benchmarks" / "results" / "accelerator.json").read_text())
    assert results["peaks"]["name"] == CHIPS["h200"].name and not results["tiny"]
    chip, sizes = CHIPS["h200"], Sizes()
    ratios = {}
    for row in results["parts"]["decoding"]:
        config = config_of(row["model"])
        context = sizes.prompt + sizes.written // 2
        costs = step_costs(config, rows=row["batch"], context=context)
        assert costs.bytes / 1e9 == pytest.approx(row["GB a step"])
        ratios["step", row["model"], row["batch"]] = (
            row["step, ms"] / 1e3 / expected_step_seconds(costs, chip)
        )
    for row in results["parts"]["prefill"]:
        costs = prefill_costs(config_of(row["model"]), rows=row["batch"], length=row["prompt"])
        ratios["prefill", row["model"], row["batch"]] = (
            row["ms"] / 1e3 / expected_prefill_seconds(costs, chip)
        )
    assert len(ratios) == 11
    assert all(1 / 1.5 < ratio < 1.5 for ratio in ratios.values()), ratios


def test_only_the_axis_tensor_divides_what_the_weights_take():
    costs, chip = step_costs(config_of("llama2-7b"), rows=64, context=1024), CHIPS["h100"]
    fixed = costs.layers * STEP_LAYER_SECONDS
    weights = (costs.bytes - costs.cached) / (WEIGHTS_SHARE * chip.bandwidth)
    cached = costs.cached / (CACHE_SHARE * chip.bandwidth)

    def expected(**layout):
        return expected_step_seconds(costs, chip, **layout) - fixed

    assert expected() == pytest.approx(weights + cached)
    assert expected(devices=8) == pytest.approx(weights + cached / 8)
    assert expected(devices=8, parts=8) == pytest.approx((weights + cached) / 8)


def test_gathered_weights_do_not_grow_with_the_tokens_of_a_prompt():
    config, chip = config_of("smollm2-135m"), CHIPS["h100"]
    plan = plan_model(config, data_mesh(jax.devices()[:1]), rows=1, context=8)
    exchanged = (Collective("all-gather", 1, 1000), Collective("all-reduce", 1, 10))
    many = dataclasses.replace(plan, collectives=exchanged)
    more = reading_seconds(many, chip, 1) - reading_seconds(plan, chip, 1)
    assert more == pytest.approx((1000 + 64 * 10) / chip.link)


def test_reading_one_token_costs_a_step():
    config = config_of("llama2-7b")
    assert prefill_costs(config, rows=3, length=1) == step_costs(config, rows=3, context=1)


def test_a_prefill_has_the_operations_that_xla_counts():
    config = config_from_hf(
        json.loads((MODELS / "smollm2-135m.json").read_text()) | {"num_hidden_layers": 1}
    )
    rows, length = 2, 32

    def read(params, tokens, positions):
        hidden, _ = hidden_states(params, config, tokens, positions)
        return unembed(params, config, hidden[:, -1])

    tokens = jnp.zeros((rows, length), jnp.int32)
    counted = jax.jit(read).lower(init_params(config, jax.random.key(0)), tokens, tokens)
    flops = counted.compile().cost_analysis()["flops"]
    assert prefill_costs(config, rows=rows, length=length).flops == pytest.approx(flops, rel=0.02)


def test_devices_are_known_by_the_names_that_jax_gives_them():
    assert chip_of("NVIDIA H100 80GB HBM3") == CHIPS["h100"]
    assert chip_of("TPU v5 lite") == CHIPS["v5e"] and chip_of("TPU v5") == CHIPS["v5p"]
    assert chip_of("cpu") is None
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(kinds) == len({*kinds}) and all(chip.kinds for chip in CHIPS.values())


def planned(*flags):
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [
        sys.executable,
        "-c",
        "from onceedit_jax.cli.main import main; main()",
        "plan",
        *flags,
    ]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def test_seventy_billion_parameters_are_planned_for_sixteen_devices():
    begun = time.monotonic()
    plugin, target = (str(MODELS / f"{name}.json") for name in ("tinyllama-1.1b", "llama3-70b"))
    pair = ("--plugin", plugin, "--target", target)
    done = planned(*pair, "--mesh", "tensor=16", "--chip", "v5e", "--rows", "16")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begun < 180
    text = re.sub(r"[\s│]+", " ", done.stdout)
    # 70.55 billion in two bytes over sixteen devices, and what is copied: keys' and values' heads.
    assert "weights 0.15 GB 8.99 GB" in text, text
    assert "64 / 16" in text and "they fit into 16.00 GB" in text
    # Two in each of the target's eighty layers: after attention and after the MLP.
    reduced = max(int(count) for count in re.findall(r"(\d+) all-reduce", text))
    assert 160 <= reduced <= 163
    assert "not measured" in text


def test_what_cannot_be_planned_is_told():
    missing = planned("--plugin", "no.json", "--target", "no.json")
    assert missing.returncode != 0 and "no.json: no such file" in missing.stderr
    model = str(MODELS / "smollm2-135m.json")
    axis = planned("--plugin", model, "--target", model, "--mesh", "rows=4")
    assert "mesh axis 'rows'" in axis.stderr
