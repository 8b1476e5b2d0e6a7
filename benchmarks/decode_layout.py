"""Decode step time with stacked (scanned) and with unstacked (unrolled) layers, side by side.

Random parameters of SmolLM2-135M's size, float32, batch 1, donated cache. Prints the table that
docs/models.md quotes. Run: python -m benchmarks.decode_layout
"""

import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.measure import table
from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.families import config_from_hf
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.models.parameters import init_params

CONFIG = config_from_hf(json.loads(Path("configs/models/smollm2-135m.json").read_text()))
CAPACITY = 128
PREFILL = 32
STEPS = 20


@partial(jax.jit, donate_argnums=3)
def step(params: Any, tokens: jax.Array, positions: jax.Array, cache: Any) -> Any:
    """One cached forward pass: the most likely next tokens [B], and the cache."""
    logits, cache = forward(params, CONFIG, tokens, positions, cache)
    return logits[:, -1].argmax(-1), cache


def measure(params: Any) -> tuple[float, list[float]]:
    """Seconds to compile the decode step, and the seconds each of `STEPS` decode steps took."""
    tokens = jnp.ones((1, PREFILL), jnp.int32)
    cache = init_cache(CONFIG, 1, CAPACITY)
    token, cache = step(params, tokens, jnp.arange(PREFILL)[None], cache)
    times = []
    for index in range(STEPS + 1):
        begin = time.perf_counter()
        token, cache = step(params, token[:, None], jnp.array([[PREFILL + index]]), cache)
        jax.block_until_ready(token)
        times.append(time.perf_counter() - begin)
    return times[0], times[1:]


def main() -> None:
    """Measure both layouts twice in turns, so that a busy machine slows both down alike."""
    stacked = init_params(CONFIG, jax.random.key(0))
    layouts = {"stacked, scanned": stacked, "unstacked, unrolled": unstack_layers(stacked)}
    compiling = {name: 0.0 for name in layouts}
    decoding: dict[str, list[float]] = {name: [] for name in layouts}
    for _ in range(2):
        for name, params in layouts.items():
            first, times = measure(params)
            compiling[name] = max(compiling[name], first)
            decoding[name] += times
    medians = {name: statistics.median(times) for name, times in decoding.items()}
    base = medians["stacked, scanned"]
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}")
    rows = [
        {
            "layers": name,
            "first step (compiles), s": compiling[name],
            "decode step, ms (median)": median * 1e3,
            "relative": median / base,
        }
        for name, median in medians.items()
    ]
    print(table(rows))


if __name__ == "__main__":
    main()
