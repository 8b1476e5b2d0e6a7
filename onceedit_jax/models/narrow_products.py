"""Products of float32 states with weights in fewer bits, on a CPU, without a wide copy of them.

Left to itself, XLA's CPU backend widens a whole matrix, writes it to memory and reads it again, at
every product. Here one row of states is multiplied in one fused loop, which widens the weights in
registers; for several rows the matrix is widened in blocks that stay in the processor's cache. Any
other backend widens operands inside its product, and does best without this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# bfloat16 is not among them: XLA's CPU backend widens it before every operation, slices included.
_NARROW = ("int8", "float16")
_PARTS = 16  # of the inputs, whose products are added up in registers
_LANES = 64  # inputs that lie side by side in memory, each added up by itself
_BLOCK = 256  # outputs that are widened together: float32 that the second-level cache holds


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class InStack:
    """A layer's matrix where it lies among those of all layers, without a copy of its own.

    Attributes:
        stack: [L, ...].
        number: The layer's place in the stack, a scalar.
    """

    stack: Any
    number: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stack."""
        dtype: np.dtype[Any] = self.stack.dtype
        return dtype

    def whole(self) -> jax.Array:
        """The matrix by itself."""
        matrix: jax.Array = jax.lax.dynamic_index_in_dim(self.stack, self.number, 0, False)
        return matrix


def multiplies(spec: str, x: jax.Array, y: jax.Array | InStack) -> bool:
    """Whether `narrow_product` is the way to multiply: for weights on the only device, a CPU.

    Args:
        spec: See `products.einsum`.
        x: States.
        y: Weights.
    """
    if x.dtype != jnp.float32 or y.dtype.name not in _NARROW:
        return False
    alone_on_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    return alone_on_cpu and inputs_of(spec) is not None


def narrow_product(spec: str, x: jax.Array, y: jax.Array | InStack) -> Float[Array, "*out"]:
    """`jnp.einsum` of states in float32 with a matrix of weights, summed in float32.

    Args:
        spec: Contracts the last axes of the states with the first or with the last of the weights.
        x: [..., inputs...] float32.
        y: [inputs..., outputs...] or [outputs..., inputs...], of any type.
    """
    found = inputs_of(spec)
    assert found is not None, f"{spec} is no product with a matrix"
    count, come_first = found
    # Inside a loop, the compiler would widen all weights before it, and keep them.
    x, y = jax.lax.optimization_barrier((x, y))
    stack, number = (y.stack, y.number) if isinstance(y, InStack) else (y[None], 0)
    lead, read = x.shape[: x.ndim - count], x.shape[x.ndim - count :]
    written = stack.shape[1 + count :] if come_first else stack.shape[1 : stack.ndim - count]
    size = math.prod(read)
    rows = x.reshape(-1, size)
    matrices = stack.reshape(len(stack), *((size, -1) if come_first else (-1, size)))

    def part(axis: int, start: Any, length: int) -> jax.Array:
        """Some inputs or outputs of the matrix, in float32."""
        starts, sizes = [number, 0, 0], [1, *matrices.shape[1:]]
        starts[axis], sizes[axis] = start, length
        return jax.lax.dynamic_slice(matrices, starts, sizes)[0].astype(x.dtype)

    if len(rows) == 1 and size % _LANES == 0:
        out = _by_rows(rows, part) if come_first else _by_lanes(rows, part)
    else:
        out = _by_blocks(rows, part, 2 if come_first else 1, math.prod(written))
    return out.reshape(*lead, *written)


def inputs_of(spec: str) -> tuple[int, bool] | None:
    """How many axes a product with a matrix contracts, and whether they are the matrix's first.

    None for another product, as of states with states.
    """
    operands, result = spec.split("->")
    states, weights = operands.split(",")
    inputs = "".join(axis for axis in weights if axis not in result)
    lead = states.removesuffix(inputs)
    if result == lead + weights.removeprefix(inputs):
        return len(inputs), True
    return (len(inputs), False) if result == lead + weights.removesuffix(inputs) else None


# From an axis, where it starts and its length to a part of the matrix.
_Part = Callable[[int, Any, int], jax.Array]


def _by_rows(x: Float[Array, "1 inputs"], part: _Part) -> Float[Array, "1 outputs"]:
    """For weights [inputs, outputs]: one loop over all of them gives sums, a product adds these up.

    A product alone would need its operand in memory, and a reduction is not vectorised, as it would
    have to add in another order.
    """
    length = x.shape[1] // _PARTS
    scales = x.reshape(_PARTS, length, 1)
    sums = sum(scales[i] * part(1, i * length, length) for i in range(_PARTS))
    return _product(jnp.ones((1, length), x.dtype), jnp.asarray(sums))


def _by_lanes(x: Float[Array, "1 inputs"], part: _Part) -> Float[Array, "1 outputs"]:
    """The same for weights [outputs, inputs]."""
    starts = range(0, x.shape[1], _LANES)
    sums = sum(x[:, i : i + _LANES] * part(2, i, _LANES) for i in starts)
    return _product(jnp.asarray(sums), jnp.ones((_LANES, 1), x.dtype)).T


def _by_blocks(
    x: Float[Array, "rows inputs"], part: _Part, axis: int, size: int
) -> Float[Array, "rows outputs"]:
    """One product for each block of outputs, which are one axis of the weights."""

    def product(start: Any, length: int) -> jax.Array:
        wide = part(axis, start, length)
        return _product(x, wide if axis == 2 else wide.T)

    count, rest = divmod(size, _BLOCK)
    found = []
    if count:
        blocks = jax.lax.map(lambda i: product(i * _BLOCK, _BLOCK), jnp.arange(count))
        found.append(jnp.moveaxis(blocks, 0, 1).reshape(len(x), -1))
    if rest:
        found.append(product(size - rest, rest))
    return jnp.concatenate(found, axis=1)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, precision="highest", preferred_element_type=jnp.float32)
