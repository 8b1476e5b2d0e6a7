"""Which parameters an edit may change: all of them, the last n layers, or low-rank factors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.models.decoder import split_layers, stack_layers

Params = dict[str, Any]


class Parts(NamedTuple):
    """A model's parameters split for training, and how they become a model again."""

    trainable: Params
    frozen: Params
    merge: Callable[[Params, Params], Params]


def partition(params: Params, settings: EditSettings, key: jax.Array) -> Parts:
    """Split parameters by `settings.method`.

    `merge(trainable, frozen)` gives parameters the decoder runs; `stack_layers` of them is the
    edited model.

    Args:
      params: canonical parameters (one stack of layers).
      settings: method and its sizes.
      key: for the LoRA factors.

    Raises:
      InputError: if `last_layers` exceeds the number of layers.
    """
    if settings.method == "full":
        return Parts(params, {}, lambda trainable, frozen: trainable)
    if settings.method == "last-n-layers":
        return _last_layers(params, settings.last_layers)
    return _low_rank(params, settings, key)


def _last_layers(params: Params, last: int) -> Parts:
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    if last > count:
        raise InputError(f"last_layers={last}: the model has {count} layers")
    if last == count:
        lower, upper = (), params["layers"]
    else:
        *lower, upper = split_layers(params, (count - last, last))["layers"]
    frozen = {name: leaf for name, leaf in params.items() if name != "layers"}
    frozen["layers"] = tuple(lower)

    def merge(trainable: Params, frozen: Params) -> Params:
        return {**frozen, "layers": (*frozen["layers"], trainable["layers"])}

    return Parts({"layers": upper}, frozen, merge)


def _low_rank(params: Params, settings: EditSettings, key: jax.Array) -> Parts:
    """LoRA (Hu et al., 2021) on every matrix of the layers: W + alpha / r * A B, B zero first."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params["layers"])
    factors: list[Any] = []
    for i, (path, leaf) in enumerate(leaves):
        inputs = _input_axes(path[-1].key, leaf)
        if inputs is None:
            factors.append(None)
            continue
        fan_in = _size(leaf.shape[1 : 1 + inputs])
        fan_out = _size(leaf.shape[1 + inputs :])
        rank = min(settings.lora_rank, fan_in, fan_out)
        noise = jax.random.normal(jax.random.fold_in(key, i), (leaf.shape[0], fan_in, rank))
        factors.append(
            {
                "a": (noise / fan_in**0.5).astype(leaf.dtype),
                "b": jnp.zeros((leaf.shape[0], rank, fan_out), leaf.dtype),
            }
        )
    scale = settings.lora_alpha / settings.lora_rank
    adapted = {str(i): factor for i, factor in enumerate(factors) if factor is not None}

    def merge(trainable: Params, frozen: Params) -> Params:
        weights = jax.tree.leaves(frozen["layers"])
        for i, factor in trainable.items():
            weight = weights[int(i)]
            update = scale * (factor["a"] @ factor["b"])
            weights[int(i)] = weight + update.reshape(weight.shape).astype(weight.dtype)
        return {**frozen, "layers": jax.tree.unflatten(structure, weights)}

    return Parts(adapted, params, merge)


# How many axes after the layer axis a weight contracts with its input.
_INPUT_AXES = {"wq": 1, "wk": 1, "wv": 1, "wo": 2, "gate": 1, "up": 1, "down": 1}


def _input_axes(name: str, leaf: jax.Array) -> int | None:
    inputs = _INPUT_AXES.get(name)
    return inputs if inputs is not None and leaf.ndim > 1 + inputs else None


def _size(shape: tuple[int, ...]) -> int:
    total = 1
    for extent in shape:
        total *= extent
    return total


def edited_params(parts: Parts, trainable: Params) -> Params:
    """The edited model in canonical form, whatever the method."""
    return stack_layers(parts.merge(trainable, parts.frozen))
