"""Matrix products: operands in the compute dtype, sums in float32."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from onceedit_jax.models.layout import INPUT_AXES
from onceedit_jax.types import Params

_MATRICES = {*INPUT_AXES, "tokens", "kernel"}  # their names; tokens: the table of embeddings


def einsum(spec: str, x: jax.Array, y: jax.Array) -> Float[Array, "*out"]:
    """`jnp.einsum` in the dtype of `x`, accumulated in float32.

    Accelerators round float32 operands by default; here a compute dtype of float32 means float32.

    Args:
        spec: Its two operands and the result, with an arrow; no index is in one of them alone.
        x: States, in the compute dtype.
        y: Weights of any dtype, or states.
    """
    if x.dtype == jnp.float32:
        return _sum(spec, x, y.astype(x.dtype), precision="highest")
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


def _sum(
    spec: str, x: jax.Array, y: jax.Array, precision: str | None = None
) -> Float[Array, "*out"]:
    return jnp.einsum(spec, x, y, precision=precision, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _short_product(spec: str, x: jax.Array, y: jax.Array) -> Float[Array, "*out"]:
    """A product of operands in fewer bits than 32.

    By JAX's own rule a gradient would multiply its float32 cotangent, at a fraction of the speed,
    and would round the gradient of float32 weights.
    """
    return _sum(spec, x, y.astype(x.dtype))


def _forward(
    spec: str, x: jax.Array, y: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _short_product(spec, x, y), (x, y)


def _backward(
    spec: str, operands: tuple[jax.Array, jax.Array], cotangent: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, y = operands
    inputs, result = spec.split("->")
    left, right = inputs.split(",")
    cotangent = cotangent.astype(x.dtype)
    of_x = _sum(f"{result},{right}->{left}", cotangent, y.astype(x.dtype))
    of_y = _sum(f"{left},{result}->{right}", x, cotangent)
    return of_x.astype(x.dtype), of_y.astype(y.dtype)


_short_product.defvjp(_forward, _backward)
