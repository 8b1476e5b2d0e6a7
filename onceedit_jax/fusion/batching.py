"""`vmap` over functions that decide about a whole batch at once.

The fast rules look at a few tokens first, and at all tokens only if some row of the batch needs it:
one `lax.cond` for the batch. Under `vmap` a `cond` whose predicate is mapped becomes a `select`,
which runs both branches. `batchwise` avoids that: a mapped call becomes one call on a larger batch.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def batchwise(function: Callable[..., Any], *, rows: int) -> Callable[..., Any]:
    """Make `vmap` of a function over batches call it once, on all batches together.

    Args:
      function: its first `rows` arguments, and all its results, are pytrees of arrays `[B, ...]`
        that it treats row by row. The other arguments are shared by all rows.
      rows: how many arguments have rows.

    Returns:
      The same function. Where `vmap` maps a shared argument too, the calls run one after another.
    """
    batched = jax.custom_batching.custom_vmap(function)

    @batched.def_vmap
    def over_batches(size: int, mapped: Any, *arguments: Any) -> tuple[Any, Any]:
        if any(jax.tree.leaves(mapped[rows:])):
            results = _one_by_one(batched, mapped, arguments)
        else:
            results = _together(batched, size, mapped[:rows], arguments, rows)
        return results, jax.tree.map(lambda _: True, results)

    return batched


def _together(
    function: Callable[..., Any], size: int, mapped: Any, arguments: Any, rows: int
) -> Any:
    """One call on `[N * B, ...]`."""

    def joined(array: Any, is_mapped: bool) -> Any:
        array = array if is_mapped else jnp.broadcast_to(array, (size, *jnp.shape(array)))
        return array.reshape(-1, *array.shape[2:])

    joint = jax.tree.map(joined, tuple(arguments[:rows]), tuple(mapped))
    results = function(*joint, *arguments[rows:])
    return jax.tree.map(lambda array: array.reshape(size, -1, *array.shape[1:]), results)


def _one_by_one(function: Callable[..., Any], mapped: Any, arguments: Any) -> Any:
    leaves, structure = jax.tree.flatten(arguments)
    is_mapped = jax.tree.leaves(mapped)
    varying = [leaf for leaf, varies in zip(leaves, is_mapped, strict=True) if varies]

    def call(current: list[Any]) -> Any:
        rest = iter(current)
        chosen = [
            next(rest) if varies else leaf for leaf, varies in zip(leaves, is_mapped, strict=True)
        ]
        return function(*jax.tree.unflatten(structure, chosen))

    return jax.lax.map(call, varying)
