"""B3: a whole fused token by the published search over a dense R, and by lookup.

A whole token is a decoding step of each model, the fusion, and the way back to a token. SmolLM2 is
both the target and the plug-in, so that both have the same anchors. Takes 15 GB of memory.
Run: python -m benchmarks.search
"""

import jax
import jax.numpy as jnp
import numpy as np

import onceedit_jax as oe
from benchmarks.fused_step import CAPACITY, PROMPT, decode
from benchmarks.measure import PLUGIN, seconds_each, write
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.fusion.mixing import fuse, fused_anchor
from onceedit_jax.fusion.relative_rule import pair_anchors
from onceedit_jax.fusion.search import gradient_search, one_hot_target
from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.decoder import forward, unembed
from onceedit_jax.relative.build import build_table
from onceedit_jax.relative.tables import BLOCK, DenseTable, ExactTable, TopKTable, lookup_table


def main() -> None:
    """Measure both ways from the same states, at alpha .5 and batch 1."""
    model = oe.load_target(PLUGIN)
    params, config = model.model.params, model.model.config
    ids = jnp.asarray(pair_anchors(model.tokenizer, model.tokenizer).ids_a)
    embeddings, tokens = params["embed"]["tokens"], config.num_tokens
    few, health = build_table(embeddings, ids, num_tokens=tokens)
    exact, _ = build_table(
        embeddings, ids, num_tokens=tokens, temperature=health.temperature, kind="exact"
    )
    assert isinstance(few, TopKTable) and isinstance(exact, ExactTable)
    dense, column = _dense(exact), lookup_table(few)

    state = states_after(params, config, [model.tokenizer.encode(PROMPT)])
    logits, half = unembed(params, config, jnp.asarray(state)), jnp.full(1, 0.5)
    token, position = jnp.ones((1, 1), jnp.int32), jnp.full((1, 1), 16, jnp.int32)
    _, cache = forward(
        params, config, jnp.ones((1, 16), jnp.int32), jnp.arange(16)[None],
        init_cache(config, 1, CAPACITY),
    )  # fmt: skip

    @jax.jit
    def looked_up(logits: jax.Array, table: TopKTable, column: jax.Array) -> jax.Array:
        return column[fused_anchor(logits, logits, half, table, table)]

    @jax.jit
    def searched(logits: jax.Array, table: DenseTable) -> jax.Array:
        probabilities = jax.nn.softmax(logits)
        target = one_hot_target(fuse(probabilities, probabilities, half, table, table))
        found = gradient_search(target, table, jnp.zeros_like(logits))
        return jnp.argmax(found.logits, axis=-1)

    same = looked_up(logits, few, column).tolist() == searched(logits, dense).tolist()
    taken = seconds_each(
        {
            "steps": lambda: [decode(params, config, token, position, cache) for _ in range(2)],
            "lookup": lambda: looked_up(logits, few, column),
            "search": lambda: searched(logits, dense),
        }
    )
    by_lookup, by_search = (taken["steps"] + taken[way] for way in ("lookup", "search"))
    row = {
        "target": model.name,
        "anchors": len(ids),
        "both decoding steps, s": taken["steps"],
        "token by search, s": by_search,
        "token by lookup, s": by_lookup,
        "times faster": by_search / by_lookup,
        "same token": same,
    }
    write(
        "search",
        "B3: a whole fused token by the published 5-step AdamW search, beside one by lookup "
        "(goal: 50 x)",
        [row],
        "In each of its five steps the search multiplies by R, dense in float32, forward and back.",
    )


def _dense(table: ExactTable) -> DenseTable:
    """R, written block by block into one array that JAX shares: a second copy would not fit."""
    total, anchors = table.embeddings.shape[0], table.num_anchors
    buffer = np.empty(total * anchors + 16, np.float32)
    aligned = -buffer.ctypes.data % 64 // 4
    matrix = buffer[aligned : aligned + total * anchors].reshape(total, anchors)
    rows = jax.jit(lambda table, start: table.rows(start, BLOCK))
    for start in [*range(0, total - BLOCK, BLOCK), total - BLOCK]:
        matrix[start : start + BLOCK] = rows(table, start)
    return DenseTable(jax.dlpack.from_dlpack(matrix))


if __name__ == "__main__":
    main()
