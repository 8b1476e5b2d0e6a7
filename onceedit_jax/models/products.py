"""Matrix products: operands in the compute dtype, sums in float32."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from onceedit_jax.models.layout import INPUT_AXES
from onceedit_jax.models.narrow_products import InStack, inputs_of, multiplies, narrow_product
from onceedit_jax.models.quantization import Int8
from onceedit_jax.types import Params

_MATRICES = {*INPUT_AXES, "tokens", "kernel"}  # their names; tokens: the table of embeddings
_ROWS = 16  # at least, of a product with large weights on a GPU
_LARGE = 1 << 20  # numbers; for less, the copies of a padded product would take longer than it does


def einsum(spec: str, x: jax.Array, y: jax.Array | Int8 | InStack) -> Float[Array, "*out"]:
    """`jnp.einsum` in the dtype of `x`, accumulated in float32.

    Accelerators round float32 operands by default; here a compute dtype of float32 means float32.

    Args:
        spec: Its two operands and the result, with an arrow; no index is in one of them alone.
        x: States, in the compute dtype.
        y: Weights of any dtype, or states. Of weights in eight bits only the values are
            multiplied, and the result is scaled.
    """
    if isinstance(y, Int8):
        product = einsum(spec, x, y.values)
        scaled: jax.Array = product * y.scale.reshape(product.shape[len(_lead(spec, x)) :])
        return scaled
    if not isinstance(y, InStack) and x.dtype == y.dtype == jnp.float32:
        return _sum(spec, x, y)
    return _short_product(spec, x, y)


def as_operands(params: Params, dtype: str) -> Params:
    """Parameters whose matrices are in the compute dtype, as `einsum` would have them.

    Products are the same, and no step converts a matrix that stays as it is. Norms and biases are
    left, since they are added and multiplied in float32.
    """

    def convert(path: Any, leaf: jax.Array) -> jax.Array:
        return leaf.astype(dtype) if path[-1].key in _MATRICES else leaf

    converted: Params = jax.tree_util.tree_map_with_path(convert, params)
    return converted


def _sum(spec: str, x: jax.Array, y: jax.Array) -> Float[Array, "*out"]:
    precision = "highest" if x.dtype == jnp.float32 else None
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _short_product(spec: str, x: jax.Array, y: jax.Array | InStack) -> Float[Array, "*out"]:
    """A product with an operand in fewer bits than 32.

    By JAX's own rule a gradient would multiply its float32 cotangent, at a fraction of the speed,
    and would round the gradient of float32 weights.
    """
    if multiplies(spec, x, y):
        return narrow_product(spec, x, y)
    return _product(spec, x, _whole(y).astype(x.dtype))


def _product(spec: str, x: jax.Array, y: jax.Array) -> Float[Array, "*out"]:
    if x.dtype == jnp.float32:
        return _sum(spec, x, y)
    mesh = jax.sharding.get_abstract_mesh()
    lead = () if inputs_of(spec) is None else _lead(spec, x)
    few = bool(lead) and 0 < math.prod(lead) < _ROWS
    if not few or y.size < _LARGE or not (mesh.empty or mesh.size == 1):
        return _sum(spec, x, y)
    plain, padded = (partial(product, spec) for product in (_sum, product_of_more_rows))
    product: jax.Array = jax.lax.platform_dependent(x, y, cuda=padded, default=plain)
    return product


def product_of_more_rows(spec: str, x: jax.Array, y: jax.Array) -> Float[Array, "*out"]:
    """`einsum` of fewer than sixteen rows and large weights, on a GPU: with rows of zeros added.

    For fewer rows XLA takes kernels that reach half of the memory's bandwidth. A decoding step of
    one row of Llama-2-7B takes 6.1 ms on an H200, and 4.5 ms with fifteen rows added.

    Args:
        spec: As for `einsum`; `y` has no axis of the rows.
        x: States.
        y: Weights, in the dtype of `x`.
    """
    height, each = x.shape[0], math.prod(_lead(spec, x)[1:])
    padding = [(0, max(0, -(-_ROWS // each) - height))] + [(0, 0)] * (x.ndim - 1)
    # Barriers, since the compiler may take the padding out of the product again.
    padded = jax.lax.optimization_barrier(jnp.pad(x, padding))
    product: jax.Array = jax.lax.optimization_barrier(_sum(spec, padded, y))[:height]
    return product


def _lead(spec: str, x: jax.Array) -> tuple[int, ...]:
    """The shape of the rows of `x`, in a product with a matrix."""
    found = inputs_of(spec)
    assert found is not None, f"{spec} is no product with a matrix"
    return x.shape[: x.ndim - found[0]]


def _forward(
    spec: str, x: jax.Array, y: jax.Array | InStack
) -> tuple[jax.Array, tuple[jax.Array, jax.Array | InStack]]:
    return _short_product(spec, x, y), (x, y)


def _backward(
    spec: str, operands: tuple[jax.Array, jax.Array | InStack], cotangent: jax.Array
) -> tuple[jax.Array, Any]:
    x, y = operands
    inputs, result = spec.split("->")
    left, right = inputs.split(",")
    cotangent = cotangent.astype(x.dtype)
    of_x = _sum(f"{result},{right}->{left}", cotangent, _whole(y).astype(x.dtype)).astype(x.dtype)
    if y.dtype == jnp.int8:  # whole numbers have no gradient
        return of_x, jax.tree.map(lambda leaf: np.zeros(jnp.shape(leaf), jax.dtypes.float0), y)
    of_y = _sum(f"{left},{result}->{right}", x, cotangent)
    return of_x, of_y.astype(y.dtype)


def _whole(y: jax.Array | InStack) -> jax.Array:
    return y.whole() if isinstance(y, InStack) else y


_short_product.defvjp(_forward, _backward)
