"""The type that a model multiplies in: how it is chosen, and what it changes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_folders import LLAMA, random_tensors, write_folder
from support import tiny_config

from onceedit_jax.distributed.processor import multiplies_bfloat16
from onceedit_jax.errors import InputError
from onceedit_jax.models.adapters import init_adapter, split_for
from onceedit_jax.models.cache import init_cache
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.dtypes import default_compute_dtype
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.parameters import init_params
from onceedit_jax.models.products import as_operands, einsum, product_of_more_rows
from onceedit_jax.models.weights import load_model

CONFIG = tiny_config(40)
SHORT = CONFIG.with_compute_dtype("bfloat16")
PARAMS = init_params(CONFIG, jax.random.key(0))
TOKENS = np.random.default_rng(0).integers(0, 40, (3, 6)).astype(np.int32)
POSITIONS = np.tile(np.arange(6, dtype=np.int32), (3, 1))


def products(jaxpr: Any):
    """The types of the two operands and the result of every matrix product in a program."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars))
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def loss(params, config):
    return jnp.sum(jnp.square(forward(params, config, TOKENS, POSITIONS)[0]))


@pytest.mark.parametrize(
    ("platform", "weights", "training", "expected"),
    [
        ("cpu", "bfloat16", False, "float32"),
        ("cpu", "float32", True, "float32"),
        ("gpu", "bfloat16", False, "bfloat16"),
        ("gpu", "float32", False, "float32"),
        ("gpu", "float16", False, "float32"),
        ("tpu", "bfloat16", False, "bfloat16"),
        ("tpu", "float32", True, "bfloat16"),
    ],
)
def test_accelerators_multiply_in_bfloat16_where_no_digits_of_weights_are_lost(
    platform, weights, training, expected
):
    assert default_compute_dtype(platform, weights, training=training) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_loaded_model_computes_in_float32_on_cpu_unless_asked(tmp_path, dtype):
    folder = write_folder(tmp_path / "model", LLAMA, random_tensors(LLAMA))
    assert load_model(folder, dtype=dtype).config.compute_dtype == "float32"
    asked = load_model(folder, dtype=dtype, compute_dtype="bfloat16")
    assert asked.config.compute_dtype == "bfloat16"


def test_a_cpu_trains_in_bfloat16_where_that_is_faster():
    assert default_compute_dtype("cpu", training=True, short_products=True) == "bfloat16"
    assert default_compute_dtype("cpu", short_products=True) == "float32"


@pytest.mark.parametrize(
    ("flags", "has_them"),
    [
        ("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile\n", True),
        ("flags : fpu avx512_bf16 avx512_vnni\n", True),
        ("flags : fpu avx2 avx512f\n", False),
    ],
)
def test_the_processor_says_whether_it_multiplies_bfloat16(tmp_path, flags, has_them):
    (tmp_path / "cpuinfo").write_text(flags)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") == has_them
    assert not multiplies_bfloat16(tmp_path / "missing")


def test_matrices_that_are_converted_once_give_the_same_logits():
    converted = as_operands(PARAMS, "bfloat16")
    types = {str(leaf.dtype) for leaf in jax.tree.leaves(converted)}
    assert types == {"float32", "bfloat16"}
    before, after = (forward(p, SHORT, TOKENS, POSITIONS)[0] for p in (PARAMS, converted))
    np.testing.assert_array_equal(before, after)


def test_another_type_is_refused(tmp_path, unchecked):
    folder = write_folder(tmp_path / "model", LLAMA, random_tensors(LLAMA))
    with pytest.raises(InputError, match="compute_dtype is 'float16'; use one of float32, bf"):
        load_model(folder, compute_dtype="float16")


def test_files_do_not_say_what_a_model_computes_in(tmp_path):
    assert ModelConfig.from_dict(SHORT.to_dict()) == CONFIG
    folder = write_folder(tmp_path / "model", LLAMA, random_tensors(LLAMA))
    model = load_model(folder, compute_dtype="bfloat16")
    export_hf(tmp_path / "export", model.params, model.config, model.hf_config)
    assert load_model(tmp_path / "export").config == model.config.with_compute_dtype("float32")


@pytest.mark.parametrize(("config", "operand"), [(CONFIG, "float32"), (SHORT, "bfloat16")])
def test_products_have_operands_of_the_compute_dtype_and_float32_sums(config, operand):
    """Of the layers, the head and the adapters, forwards and backwards."""
    adapter = init_adapter(PARAMS, 1, 2, jax.random.key(1))
    params = {**split_for(PARAMS, 1), "adapters": adapter}
    cached = jax.make_jaxpr(
        lambda: forward(params, config, TOKENS, POSITIONS, init_cache(config, 3, 8))
    )()
    there = list(products(cached.jaxpr))
    backwards = list(products(jax.make_jaxpr(jax.grad(lambda p: loss(p, config)))(params).jaxpr))
    assert len(there) > 10 and len(backwards) > 2 * len(there)
    assert set(there + backwards) == {(operand, operand, "float32")}
    assert init_cache(config, 1, 4)["keys"].dtype == operand


def test_distributions_are_near_those_of_float32():
    ours, exact = (
        jax.nn.softmax(forward(PARAMS, config, TOKENS, POSITIONS)[0]) for config in (SHORT, CONFIG)
    )
    variation = np.abs(np.asarray(ours) - np.asarray(exact)).sum(axis=-1) / 2
    assert ours.dtype == jnp.float32 and 0 < variation.max() < 0.05


def test_gradients_are_near_those_of_float32_and_are_not_rounded():
    ours, exact = (jax.grad(loss)(PARAMS, config) for config in (SHORT, CONFIG))
    for mine, wanted in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert mine.dtype == jnp.float32
        size = np.abs(wanted).max()
        np.testing.assert_allclose(mine / size, wanted / size, atol=0.05)
    down = ours["layers"]["mlp"]["down"]
    assert (down.astype(jnp.bfloat16).astype(jnp.float32) != down).mean() > 0.5


@pytest.mark.parametrize(
    ("spec", "left", "right"),
    [
        ("btd,dhk->bthk", (2, 3, 4), (4, 2, 5)),
        ("bthk,hkd->btd", (2, 3, 2, 5), (2, 5, 4)),
        ("btngk,bsnk->bngts", (2, 3, 2, 2, 5), (2, 4, 2, 5)),
        ("bngts,bsnk->btngk", (2, 2, 2, 3, 4), (2, 4, 2, 5)),
        ("...d,vd->...v", (2, 3, 4), (6, 4)),
        ("...d,dv->...v", (4,), (4, 6)),
        ("bti,bio->bto", (2, 3, 4), (2, 4, 5)),
    ],
)
def test_a_short_product_has_the_gradients_of_the_same_product_in_float32(spec, left, right):
    x, y = (
        jax.random.normal(jax.random.key(i), shape).astype(jnp.bfloat16).astype(jnp.float32)
        for i, shape in enumerate((left, right))
    )
    exact, back = jax.vjp(lambda x, y: einsum(spec, x, y), x, y)
    ours, our_back = jax.vjp(lambda x, y: einsum(spec, x, y), x.astype(jnp.bfloat16), y)
    np.testing.assert_allclose(ours, exact, atol=1e-5)
    ones = jnp.ones_like(exact)  # has no more digits than bfloat16
    for mine, wanted, tolerance in zip(our_back(ones), back(ones), (1e-2, 1e-5), strict=True):
        np.testing.assert_allclose(mine.astype(jnp.float32), wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("spec", "left", "right"),
    [
        ("btd,df->btf", (1, 1, 4), (4, 6)),
        ("btd,dhk->bthk", (3, 2, 4), (4, 2, 5)),
        ("bthk,hkd->btd", (1, 5, 2, 3), (2, 3, 4)),
        ("...d,vd->...v", (2, 4), (6, 4)),
    ],
)
def test_a_product_of_more_rows_is_that_of_its_own_rows(spec, left, right):
    x, y = (
        jax.random.normal(jax.random.key(i), shape).astype(jnp.bfloat16)
        for i, shape in enumerate((left, right))
    )
    np.testing.assert_allclose(product_of_more_rows(spec, x, y), einsum(spec, x, y), rtol=1e-6)


@pytest.mark.parametrize(
    ("platform", "rows", "width", "padded"),
    [("cuda", 1, 1024, True), ("cuda", 16, 1024, False), ("cuda", 1, 64, False),
     ("cpu", 1, 1024, False)],
)  # fmt: skip
def test_few_rows_get_more_where_a_gpu_multiplies_them_by_large_weights(
    platform, rows, width, padded
):
    shapes = (rows, 1, 1024), (1024, width)
    x, y = (jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in shapes)
    product = jax.jit(lambda x, y: einsum("btd,df->btf", x, y))
    lowered = jax.export.export(product, platforms=[platform])(x, y).mlir_module()
    assert ("stablehlo.pad" in lowered) == padded
