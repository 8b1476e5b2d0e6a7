"""Models over meshes of eight simulated devices: the same function, wherever the parts lie."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import on_eight_devices, tiny_config

from onceedit_jax.distributed.mesh import LOGICAL_AXES, MESH_AXES, data_mesh, make_mesh, spec
from onceedit_jax.models.adapters import init_adapter
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.sharding import fit_heads, fitted_config


@settings(max_examples=12)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 8), st.booleans())
def test_fitted_heads_divide_and_compute_the_same(kv_heads, group, parts, biases):
    config = tiny_config(17, num_heads=kv_heads * group, num_kv_heads=kv_heads, qkv_bias=biases)
    params = init_params(config, jax.random.key(1))
    params["adapters"] = init_adapter(params, 2, 2, jax.random.key(2))
    params = jax.tree.map(lambda a: a + 0.1, params)  # biases, norms and factors that would show
    fitted, changed = fit_heads(params, config, parts), fitted_config(config, parts)
    assert changed.num_heads % parts == 0 and changed.num_kv_heads % parts == 0
    assert fitted["layers"]["attention"]["wq"].shape[2] == changed.num_heads
    tokens = jnp.arange(10).reshape(2, 5)
    positions = jnp.broadcast_to(jnp.arange(5), (2, 5))
    wanted = forward(params, config, tokens, positions)[0]
    found = forward(fitted, changed, tokens, positions)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_gradients_flow_back_to_the_heads_there_were():
    config = tiny_config(17, num_heads=3, num_kv_heads=1)
    params = init_params(config, jax.random.key(1))
    changed = fitted_config(config, 2)
    assert (changed.num_heads, changed.num_kv_heads) == (4, 2)

    def loss(params, parts):
        fitted, config_ = (
            (fit_heads(params, config, parts), changed) if parts > 1 else (params, config)
        )
        return jnp.sum(
            forward(fitted, config_, jnp.array([[1, 2, 3]]), jnp.array([[0, 1, 2]]))[0] ** 2
        )

    one, two = (jax.grad(loss)(params, parts) for parts in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), one, two)


def test_heads_that_divide_are_left_alone():
    config = tiny_config(17)
    params = init_params(config, jax.random.key(1))
    assert fit_heads(params, config, 2) is params
    assert fitted_config(config, 2) == config


def test_a_mesh_is_refused_by_name_and_number():
    with pytest.raises(ValueError, match="mesh axis 'model'"):
        make_mesh({"model": 1})
    with pytest.raises(ValueError, match=r"data=3, fsdp=1, tensor=1: 3 devices, there are 1"):
        make_mesh({"data": 3}, jax.devices()[:1])


def test_no_array_names_a_mesh_axis_that_is_none():
    assert {name for names in LOGICAL_AXES.values() for name in names} <= set(MESH_AXES)
    # One device splits nothing, whatever an array holds.
    assert all(part is None for part in spec(data_mesh(jax.devices()[:1]), ("batch", "heads")))


PROGRAM = """
import jax
jax.config.update("jax_num_cpu_devices", 8)
import jax.numpy as jnp
import numpy as np
from support import tiny_config

from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.adapters import init_adapter
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.sharding import param_axes, place
from onceedit_jax.distributed.mesh import make_mesh, shard_batch, sharding

# Heads as SmolLM2 and Gemma-3 have them; a vocabulary that eight do not divide, then one they do.
SHAPES = ({"num_heads": 9, "num_kv_heads": 3}, {"num_heads": 4, "num_kv_heads": 1})
MESHES = ({"data": 8}, {"data": 2, "fsdp": 2, "tensor": 2}, {"tensor": 8})
for shape, vocabulary in zip(SHAPES, (57, 64)):
    config = tiny_config(vocabulary, **shape)
    params = init_params(config, jax.random.key(0))
    axes = param_axes(params)
    def sizes_agree(leaf, names):
        assert len(leaf.shape) == len(names), (leaf.shape, names)

    jax.tree.map(sizes_agree, params, axes)
    tokens = jax.random.randint(jax.random.key(1), (8, 6), 0, vocabulary)
    positions = jnp.broadcast_to(jnp.arange(6), (8, 6))
    run = jax.jit(forward, static_argnums=1)
    wanted = run(params, config, tokens, positions)[0]
    for sizes in MESHES:
        mesh = make_mesh(sizes)
        placed, fitted = place(mesh, params, config)
        up = placed["layers"]["mlp"]["up"]
        assert up.addressable_shards[0].data.size == up.size // (
            mesh.shape["fsdp"] * mesh.shape["tensor"]
        )
        with jax.set_mesh(mesh):
            rows = shard_batch(mesh, (tokens, positions))
            found = run(placed, fitted, *rows)[0]
            # The same in two steps over a cache.
            cache = init_cache(fitted, 8, 6)
            first, cache = run(placed, fitted, rows[0][:, :4], rows[1][:, :4], cache)
            second, _ = run(placed, fitted, rows[0][:, 4:], rows[1][:, 4:], cache)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
        steps = jnp.concatenate([first, second], 1)
        np.testing.assert_allclose(steps, wanted, rtol=1e-4, atol=1e-4)
    from onceedit_jax.models.argmax import likely_tokens, most_likely
    for logits in (wanted[:, -1], jnp.round(wanted)):  # with ties
        for sizes in MESHES:
            mesh = make_mesh(sizes)
            with jax.set_mesh(mesh):
                axes = ("batch", *(None,) * (logits.ndim - 2), "vocab")
                split = jax.device_put(logits, sharding(mesh, axes, logits.shape))
                best = jax.jit(most_likely)(split)
                some = jax.jit(likely_tokens, static_argnums=1)(split, 5)
            np.testing.assert_array_equal(best, jnp.argmax(logits, -1))
            np.testing.assert_array_equal(some[..., 0], best)
            assert all(len(set(row)) == 5 for row in np.asarray(some).reshape(-1, 5).tolist())
print("equal")
"""


def test_eight_devices_compute_what_one_does():
    on_eight_devices(PROGRAM, prints="equal")
