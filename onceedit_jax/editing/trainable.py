"""Which parameters an edit may change: all of them, the last n layers, or low-rank factors."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.models.layout import INPUT_AXES, split_layers

Params = dict[str, Any]


class Parts(NamedTuple):
    """A model's parameters split for training; `merged` makes them a model again."""

    trainable: Params
    frozen: Params


def partition(params: Params, settings: EditSettings, key: jax.Array) -> Parts:
    """Split parameters by `settings.method`.

    Args:
      params: canonical parameters (one stack of layers).
      settings: method and its sizes.
      key: for the LoRA factors.

    Raises:
      InputError: if `last_layers` exceeds the number of layers.
    """
    if settings.method == "full":
        return Parts(params, {})
    if settings.method == "last-n-layers":
        return _last_layers(params, settings.last_layers)
    return _low_rank(params, settings, key)


def merged(trainable: Params, frozen: Params, settings: EditSettings) -> Params:
    """Parameters that the decoder runs, of both parts; `stack_layers` of them is the edited model.

    Args:
      trainable: the part that is trained, of `partition`'s structure.
      frozen: the other part.
      settings: as `partition` was given.
    """
    if settings.method == "full":
        return trainable
    if settings.method == "last-n-layers":
        return {**frozen, "layers": (*frozen["layers"], trainable["layers"])}
    weights, structure = jax.tree.flatten(frozen["layers"])
    scale = settings.lora_alpha / settings.lora_rank
    for i, factor in trainable.items():
        weight = weights[int(i)]
        update = scale * (factor["a"] @ factor["b"])
        weights[int(i)] = weight + update.reshape(weight.shape).astype(weight.dtype)
    return {**frozen, "layers": jax.tree.unflatten(structure, weights)}


def _last_layers(params: Params, last: int) -> Parts:
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    if last > count:
        raise InputError(f"last_layers={last}: the model has {count} layers")
    if last == count:
        lower, upper = (), params["layers"]
    else:
        *lower, upper = split_layers(params, (count - last, last))["layers"]
    frozen = {name: leaf for name, leaf in params.items() if name != "layers"}
    return Parts({"layers": upper}, {**frozen, "layers": tuple(lower)})


def _low_rank(params: Params, settings: EditSettings, key: jax.Array) -> Parts:
    """LoRA (Hu et al., 2021) on every matrix of the layers: W + alpha / r * A B, B zero first."""
    adapted: Params = {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params["layers"])):
        inputs = INPUT_AXES.get(path[-1].key)
        if inputs is None or leaf.ndim <= 1 + inputs:  # no matrix: a norm, a bias
            continue
        fan_in = math.prod(leaf.shape[1 : 1 + inputs])
        fan_out = math.prod(leaf.shape[1 + inputs :])
        rank = min(settings.lora_rank, fan_in, fan_out)
        noise = jax.random.normal(jax.random.fold_in(key, i), (leaf.shape[0], fan_in, rank))
        adapted[str(i)] = {
            "a": (noise / fan_in**0.5).astype(leaf.dtype),
            "b": jnp.zeros((leaf.shape[0], rank, fan_out), leaf.dtype),
        }
    return Parts(adapted, params)
