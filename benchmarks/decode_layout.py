"""Decode step time with stacked (scanned) and with unstacked (unrolled) layers, side by side.

Random parameters of SmolLM2-135M's size, float32, batch 1, donated cache; prints the table that
docs/models.md quotes. Run: python benchmarks/decode_layout.py
"""

import statistics
import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from onceedit_jax.models.config import ModelConfig, Rope
from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.models.parameters import init_params

CONFIG = ModelConfig(
    family="llama",
    vocab_size=49152,
    num_tokens=49152,
    hidden_size=576,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    mlp_size=1536,
    max_positions=2048,
    rope=Rope(theta=100_000.0, dim=64),
    tie_embeddings=True,
)
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
    """Measure both layouts twice, alternating, so that a busy machine hurts both alike."""
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
    print("| layers | first step (compiles), s | decode step, ms (median) | relative |")
    print("| --- | --- | --- | --- |")
    for name, median in medians.items():
        print(f"| {name} | {compiling[name]:.1f} | {median * 1e3:.1f} | {median / base:.2f} |")


if __name__ == "__main__":
    main()
