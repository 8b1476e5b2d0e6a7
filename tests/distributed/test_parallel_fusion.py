"""Fusion and search on eight simulated devices equal one; `pmap` equals `jit` with shardings."""

import os
import subprocess
import sys
import textwrap

PROGRAM = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
import numpy as np

from onceedit_jax import fusion
from onceedit_jax.fusion import FusionInputs, RelativeState, fuse, fused_step
from onceedit_jax.distributed.mesh import data_mesh, replicate, shard_batch
from onceedit_jax.relative.build import build_table
from onceedit_jax.relative.tables import lookup_table

VS, VL, A, B = 24, 36, 12, 16
rng = np.random.default_rng(0)
target_rows, plugin_rows = rng.normal(size=(VL, 8)), rng.normal(size=(VS, 8))
keys = jax.random.split(jax.random.key(0), 3)
inputs = FusionInputs(
    3 * jax.random.normal(keys[0], (B, VS)),
    3 * jax.random.normal(keys[1], (B, VL)),
    jax.random.uniform(keys[2], (B,)),
)
p_s, p_l = jax.nn.softmax(inputs[0]), jax.nn.softmax(inputs[1])
mesh = data_mesh()
assert mesh.size == 8

for kind in ("topk", "exact"):
    r_s = build_table(plugin_rows, np.arange(A), kind=kind, k=4)[0]
    r_l = build_table(target_rows, np.arange(A), kind=kind, k=4)[0]
    tables = RelativeState(r_s, r_l, lookup_table(r_l))

    arguments = (p_s, p_l, inputs.alpha)
    one = jax.jit(fuse)(*arguments, r_s, r_l)
    sharded = jax.jit(fuse)(*shard_batch(mesh, arguments), *replicate(mesh, (r_s, r_l)))
    assert len(sharded.sharding.device_set) == 8, sharded.sharding
    assert sharded.addressable_shards[0].data.shape == (B // 8, A)
    rows = [array.reshape(8, B // 8, *array.shape[1:]) for array in arguments]
    np.testing.assert_allclose(sharded, one, atol=1e-6)
    if kind == "topk":
        mapped = jax.pmap(fuse, in_axes=(0, 0, 0, None, None))(*rows, r_s, r_l)
        np.testing.assert_allclose(mapped.reshape(B, A), sharded, atol=1e-6)

    if kind != "topk":
        continue
    drafts = inputs._replace(
        plugin_logits=None,
        drafted=jnp.arange(B, dtype=jnp.int32) - 1,
        probability=jax.random.uniform(keys[2], (B,)),
    )
    for rule, state, batch in (
        (fusion.draft(), (), drafts),
        (fusion.vocabulary(), jnp.arange(VS), inputs),
        (fusion.relative(), tables, inputs),
        (fusion.relative(search="gradient"), tables, inputs),
        (fusion.deepen(), tables, inputs),
    ):
        step = jax.jit(fused_step, static_argnums=0)
        alone = step(rule, state, batch)
        spread = step(rule, replicate(mesh, state), shard_batch(mesh, batch))
        assert len(spread.tokens.sharding.device_set) == 8
        np.testing.assert_array_equal(spread.tokens, alone.tokens)
        rows = jax.tree.map(lambda leaf: leaf.reshape(8, B // 8, *leaf.shape[1:]), batch)
        mapped = jax.pmap(lambda part: fused_step(rule, state, part))(rows)
        np.testing.assert_array_equal(mapped.tokens.reshape(B), alone.tokens)
        if alone.losses is not None:
            np.testing.assert_allclose(spread.losses, alone.losses, rtol=1e-5, atol=1e-7)
            found = mapped.losses.reshape(B, -1)
            np.testing.assert_allclose(found, alone.losses, rtol=1e-5, atol=1e-7)
print("equal")
"""


def test_eight_devices_and_pmap_equal_one_device():
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)],
        capture_output=True, text=True, timeout=300, env=environment, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.strip() == "equal"
