"""Products with weights in few bits: the same numbers, and no wide copy of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import in_eight_bits, tiny_config

from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation
from onceedit_jax.models.adapters import init_adapter, split_for
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.layout import unstack_layers
from onceedit_jax.models.narrow_products import InStack, multiplies, narrow_product
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.products import einsum
from onceedit_jax.models.quantization import Int8, quantize

# A product, the shapes of states and weights, and which axes of the weights are inputs.
CASES = [
    ("btd,df->btf", (1, 1, 64), (64, 300), [0]),  # one row
    ("btd,df->btf", (1, 1, 192), (192, 5), [0]),
    ("btd,df->btf", (1, 1, 37), (37, 11), [0]),  # one row of a size that is no multiple
    ("btd,df->btf", (1, 3, 20), (20, 7), [0]),  # less than a block
    ("btd,df->btf", (2, 1, 64), (64, 512), [0]),  # two blocks
    ("btd,df->btf", (3, 5, 33), (33, 519), [0]),  # two blocks and a rest
    ("btd,dhk->bthk", (1, 1, 64), (64, 3, 8), [0]),
    ("btd,dhk->bthk", (2, 3, 10), (10, 1, 300), [0]),
    ("bthk,hkd->btd", (1, 1, 4, 16), (4, 16, 9), [0, 1]),
    ("bthk,hkd->btd", (2, 2, 3, 5), (3, 5, 260), [0, 1]),
    ("...d,vd->...v", (1, 128), (301, 128), [1]),
    ("...d,vd->...v", (2, 3, 24), (601, 24), [1]),
    ("...d,dv->...v", (64,), (64, 301), [0]),
]


def weights_of(shape, inputs, dtype, seed=0):
    """Weights, and their values in float64."""
    exact = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    if dtype == "float16":
        return jnp.asarray(exact, jnp.float16), exact.astype(np.float16).astype(np.float64)
    small = quantize(exact, inputs)
    return jax.tree.map(jnp.asarray, small), small.values * small.scale.astype(np.float64)


@pytest.mark.parametrize("dtype", ["int8", "float16"])
@pytest.mark.parametrize(("spec", "x_shape", "y_shape", "inputs"), CASES)
def test_the_product_is_that_of_the_widened_weights(spec, x_shape, y_shape, inputs, dtype):
    x = np.random.default_rng(1).normal(size=x_shape).astype(np.float32)
    y, exact = weights_of(y_shape, inputs, dtype)
    assert multiplies(spec, jnp.asarray(x), y.values if dtype == "int8" else y)
    wanted = np.einsum(spec, x.astype(np.float64), exact)
    found = jax.jit(einsum, static_argnums=0)(spec, x, y)
    assert found.dtype == jnp.float32 and found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("rows", [1, 3])
def test_a_layers_matrix_is_multiplied_where_it_lies(rows):
    x = np.random.default_rng(1).normal(size=(1, rows, 64)).astype(np.float32)
    layers = [weights_of((64, 270), [0], "int8", seed) for seed in range(3)]
    stack = jnp.stack([small.values for small, _ in layers])
    for number, (small, exact) in enumerate(layers):
        y = Int8(InStack(stack, jnp.int32(number)), small.scale)
        found = jax.jit(einsum, static_argnums=0)("btd,df->btf", x, y)
        np.testing.assert_allclose(found, x.astype(np.float64) @ exact, atol=1e-4)
        short = einsum("btd,df->btf", jnp.asarray(x, jnp.bfloat16), y)
        np.testing.assert_allclose(short, x.astype(np.float64) @ exact, atol=0.5)


@pytest.mark.parametrize("spec", ["bti,bio->bto", "btngk,bsnk->bngts"])
def test_other_products_are_left_to_the_compiler(spec):
    x, y = (jnp.ones((2,) * len(axes), jnp.float16) for axes in spec.split("->")[0].split(","))
    assert not multiplies(spec, x.astype(jnp.float32), y)
    np.testing.assert_allclose(einsum(spec, x.astype(jnp.float32), y), jnp.einsum(spec, x, y))


@pytest.mark.parametrize(("dtype", "narrow"), [("bfloat16", "int8"), ("float32", "bfloat16")])
def test_other_types_are_left_to_the_compiler(dtype, narrow):
    assert not multiplies("btd,df->btf", jnp.ones((1, 1, 64), dtype), jnp.ones((64, 8), narrow))


def test_on_several_devices_and_other_backends_products_are_left_to_the_compiler(monkeypatch):
    arguments = "btd,df->btf", jnp.ones((1, 1, 64)), jnp.ones((64, 8), jnp.int8)
    assert multiplies(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 2)
        assert not multiplies(*arguments)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not multiplies(*arguments)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_loop_keeps_no_wide_copy(rows):
    layers, size = 8, 512

    def run(x, stack):
        def layer(x, number):
            return jnp.tanh(narrow_product("btd,df->btf", x, InStack(stack, number))), None

        step = lambda _, x: jax.lax.scan(layer, x, jnp.arange(layers))[0]  # noqa: E731
        return jax.lax.fori_loop(0, 5, step, x)

    x, stack = jnp.ones((1, rows, size)), jnp.ones((layers, size, size), jnp.int8)
    memory = jax.jit(run).lower(x, stack).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < size * size * 4  # one matrix in float32


def test_gradients_go_through_weights_in_eight_bits():
    """To states, and to the adapters of a model; the weights have none."""
    x = jax.random.normal(jax.random.key(1), (2, 3, 20))
    small, exact = weights_of((20, 7), [0], "int8")
    found = jax.grad(lambda x: jnp.sum(jnp.square(einsum("btd,df->btf", x, small))))(x)
    np.testing.assert_allclose(found, 2 * (x @ exact) @ exact.T, rtol=1e-4, atol=1e-3)

    config = tiny_config(24)
    params = init_params(config, jax.random.key(0))
    adapters = init_adapter(params, 2, 2, jax.random.key(1))
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)
    tokens, positions = jnp.arange(6)[None], jnp.arange(6)[None]
    small, wide = in_eight_bits(params), in_eight_bits(params)
    wide = jax.tree.map(
        lambda leaf: leaf.values * leaf.scale if isinstance(leaf, Int8) else leaf,
        wide,
        is_leaf=lambda leaf: isinstance(leaf, Int8),
    )

    def loss(adapters, params):
        params = {**split_for(params, 2), "adapters": adapters}
        return jnp.sum(jnp.square(forward(params, config, tokens, positions)[0]))

    ours, wanted = (jax.grad(loss)(adapters, each) for each in (small, wide))
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-3)


def test_a_second_call_compiles_nothing():
    config = tiny_config(64, hidden_size=64)
    params = in_eight_bits(init_params(config, jax.random.key(0)))
    none = jnp.zeros(64, bool)
    tokens, positions = np.arange(5, dtype=np.int32)[None], np.arange(5, dtype=np.int32)[None]
    written = []
    for layout in (params, unstack_layers(params)):
        before = greedy_continuation._cache_size()
        for seed in range(2):
            found = greedy_continuation(
                layout, config, tokens + seed, positions, StopTokens(none, none, none), steps=4
            )
            written.append(np.asarray(found.tokens))
        assert greedy_continuation._cache_size() == before + 1
    np.testing.assert_array_equal(written[:2], written[2:])
