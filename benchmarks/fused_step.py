"""B2: the time of a fused step beside the target's own decode step, on the real pair.

A fused step begins with both models' logits: alpha from the gate, both softmaxes, transfer, fusion,
and the token. Run: python -m benchmarks.fused_step
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import onceedit_jax as oe
from benchmarks.measure import PLUGIN, TARGETS, seconds_each, write
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.ensemble.side import ModelSide
from onceedit_jax.gates.weight_token import alpha, gate_logit
from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import forward, unembed

PROMPT = "What is the capital of Australia? The capital of Australia is the city of"
CAPACITY = 64


@partial(jax.jit, static_argnames="config")
def decode(params: Any, config: ModelConfig, token: Any, position: Any, cache: Any) -> jax.Array:
    """The target's own next token, from its cache."""
    logits, _ = forward(params, config, token, position, cache)
    return jnp.argmax(logits[:, -1], axis=-1)


@partial(jax.jit, static_argnames="rule")
def fused(
    rule: oe.FusionRule, hidden: Any, kernel: Any, inputs: oe.FusionInputs, state: Any
) -> jax.Array:
    """Alpha, transfer, fusion, lookup."""
    weight = alpha(gate_logit({"kernel": kernel}, hidden))
    return oe.fused_step(rule, state, inputs._replace(alpha=weight)).tokens


def main() -> None:
    """Measure every rule that has no search, with batches of 1 and 16."""
    plugin, rows = oe.load_target(PLUGIN), []
    for spec in TARGETS:
        target = oe.load_target(spec)
        for rule in (oe.fusion.draft(), oe.fusion.vocabulary(), oe.fusion.relative()):
            state = rule.prepare(ModelSide.of_model(plugin), ModelSide.of_model(target))
            for batch in (1, 16):
                rows.append(_measured(plugin, target, rule, state, batch))
    write(
        "fused_step",
        "B2: a fused step beside the target's own decode step (goal: 5%)",
        rows,
        "The states are those after a real prompt, the same in all rows of a batch. Alpha is "
        ".5; with an edit's alpha, near 1, fewer tokens settle the relative rule. A row that "
        "few tokens do not settle is fused in full, at many times this cost.",
    )


def _measured(
    plugin: oe.Target, target: oe.Target, rule: oe.FusionRule, state: Any, batch: int
) -> dict[str, Any]:
    hidden, logits = [], []
    for model in (plugin, target):
        ends = [model.tokenizer.encode(PROMPT)]
        after = states_after(model.model.params, model.model.config, ends)
        hidden.append(jnp.asarray(np.repeat(after, batch, axis=0)))
        logits.append(unembed(model.model.params, model.model.config, hidden[-1]))
    drafted = jnp.argmax(logits[1], axis=-1).astype(jnp.int32)
    inputs = oe.FusionInputs(
        logits[0], logits[1], jnp.zeros(batch), drafted, jnp.full(batch, 0.5, jnp.float32)
    )
    config = target.model.config
    cache = init_cache(config, batch, CAPACITY)
    columns = np.tile(np.arange(16, dtype=np.int32), (batch, 1))
    _, cache = jax.jit(forward, static_argnums=1)(
        target.model.params, config, jnp.ones_like(columns), columns, cache
    )
    token, position = jnp.ones((batch, 1), jnp.int32), jnp.full((batch, 1), 16, jnp.int32)
    kernel = jnp.zeros(plugin.model.config.hidden_size)
    taken = seconds_each(
        {
            "decode": lambda: decode(target.model.params, config, token, position, cache),
            "fused": lambda: fused(rule, hidden[0], kernel, inputs, state),
        },
        repeats=21,
    )
    return {
        "target": target.name,
        "rule": rule.name,
        "batch": batch,
        "decode step, ms": 1e3 * taken["decode"],
        "fused step, ms": 1e3 * taken["fused"],
        "ratio": taken["fused"] / taken["decode"],
    }


if __name__ == "__main__":
    main()
