"""What devices exchange and compute, read from the compiled programs themselves."""

from support import on_eight_devices

PROGRAM = r"""
import re
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
import numpy as np
from support import tiny_config

from onceedit_jax.editing.batches import Batch
from onceedit_jax.editing.trainer import batch_loss
from onceedit_jax.ensemble.decisions import decide
from onceedit_jax import fusion
from onceedit_jax.fusion import RelativeState
from onceedit_jax.gates.weight_token import init_gate
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.sharding import param_shardings, place
from onceedit_jax.distributed.mesh import make_mesh, replicate, shard_batch, using
from onceedit_jax.relative.build import build_table, table_block
from onceedit_jax.relative.tables import lookup_table

# More rows than a state has numbers: `fsdp` gathers parameters, and may, but nothing so large.
ROWS, VOCABULARY, ANCHORS, LENGTH = 64, 640, 320, 12
config = tiny_config(VOCABULARY, num_heads=8, num_kv_heads=8)
params = init_params(config, jax.random.key(0))
ids = jnp.arange(ANCHORS)
table, _ = build_table(
    params["embed"]["tokens"], ids, normalization="centered", num_tokens=VOCABULARY, kind="topk"
)
STATES = {
    "draft": (),
    "vocabulary": jnp.arange(VOCABULARY),
    "relative": RelativeState(table, table, lookup_table(table)),
}


def gathered(compiled):
    '''Numbers in the largest array that an all-gather makes.'''
    sizes = [0]
    for line in compiled.as_text().splitlines():
        if made := re.search(r"= (.+?) all-gather(-start)?\(", line):
            for dims in re.findall(r"[a-z]+\d+\[([\d,]*)\]", made[1]):
                sizes.append(int(np.prod([int(n) for n in dims.split(",") if n])))
    return max(sizes)


def flops(compiled):
    return compiled.cost_analysis()["flops"]


def fused(mesh, rule, rows):
    '''A fused step of two models over a mesh.'''
    laid, fitted = place(mesh, params, config)
    head = {name: laid[name] for name in ("embed", "head") if name in laid}
    states = jnp.zeros((rows, config.hidden_size))
    view = {"states": states}
    if rule == "draft":
        view = {"drafted": jnp.zeros(rows, jnp.int32), "probability": jnp.ones(rows)}
    given = (view, states, jnp.ones(rows))
    with using(mesh):
        view, states, alpha = shard_batch(mesh, given) if mesh.size > 1 else given
        return decide.lower(
            head, head, replicate(mesh, STATES[rule]), view, states, alpha,
            rule=getattr(fusion, rule)(), plugin_config=fitted, target_config=fitted,
        ).compile()


def built(mesh, rows):
    '''A block of a transfer table, its rows shared by all devices.'''
    unit = jax.random.normal(jax.random.key(1), (rows, config.hidden_size))
    anchors, own = jnp.ones((ANCHORS, config.hidden_size)), jnp.zeros(rows, jnp.int32)
    with using(mesh):
        block = replicate(mesh, (unit, own, anchors))
        return table_block.lower(*block, 9.0, k=8, normalization="centered").compile()


def trained(mesh, rows):
    '''The gradients of an editing step over a mesh.'''
    every = jnp.arange(rows)
    lines = jnp.zeros((rows, LENGTH), jnp.int32)
    if mesh.size > 1:
        lines = shard_batch(mesh, lines)
    ones = jnp.ones(rows)
    batch = Batch(
        tokens=lines, positions=lines, segments=lines, lines=every, target_rows=every,
        target_columns=every * 0, targets=every * 0, target_mask=ones, gate_columns=every * 0,
        gate_labels=ones, gate_mask=ones,
    )
    laid = jax.device_put(params, param_shardings(mesh, params))
    gate = replicate(mesh, init_gate(config.hidden_size))
    with using(mesh):
        step = jax.jit(jax.grad(batch_loss, has_aux=True), static_argnums=(3, 4))
        return step.lower(laid, gate, batch, config, 0.8).compile()


one = make_mesh({"data": 1}, jax.devices()[:1])
for sizes in ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8}):
    mesh = make_mesh(sizes)
    for rule in ("draft", "relative"):
        size = gathered(fused(mesh, rule, ROWS))
        print("fused", rule, sizes, size)
        assert size < ROWS * VOCABULARY, (rule, sizes, size)
    size = gathered(trained(mesh, ROWS))
    print("trained", sizes, size)
    assert size < ROWS * VOCABULARY, (sizes, size)
    size = gathered(built(mesh, VOCABULARY))
    print("built", sizes, size)
    assert size < VOCABULARY * ANCHORS, (sizes, size)
    embeddings = place(mesh, params, config)[0]["embed"]["tokens"]
    again, _ = build_table(embeddings, ids, num_tokens=VOCABULARY)
    np.testing.assert_array_equal(again.indices, table.indices)
    np.testing.assert_allclose(again.values, table.values, rtol=1e-4, atol=1e-7)
# As many rows for each device: each computes as much as one alone.
eight = make_mesh({"data": 8})
for name, run in (
    ("draft", lambda mesh, rows: fused(mesh, "draft", rows)),
    ("relative", lambda mesh, rows: fused(mesh, "relative", rows)),
    ("trained", trained),
    ("built", built),
):
    alone, together = flops(run(one, 4)), flops(run(eight, 32))
    print("flops", name, together / alone)
    assert abs(together / alone - 1) < 0.02, (name, alone, together)
print("fine")
"""


def test_no_device_gathers_whole_logits_and_each_computes_its_share():
    on_eight_devices(PROGRAM, prints="fine")
