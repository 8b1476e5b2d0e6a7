"""What gradient training may change: all parameters, the last layers, low-rank factors."""

import dataclasses
import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from onceedit_jax.checks import check_settings
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.models.adapters import init_adapter, split_for
from onceedit_jax.models.layout import INPUT_AXES, group_size, split_layers
from onceedit_jax.types import Params

# Shares of the layers that are trained by default, chosen on facts for development.
UPPER, ADAPTED = 0.4, 0.25


class Parts(NamedTuple):
    """A model's parameters, split for training.

    Attributes:
      trainable: the arrays that the optimizer changes.
      frozen: everything else that `Trainable.join` needs.
    """

    trainable: Params
    frozen: Params


@dataclasses.dataclass(frozen=True)
class Trainable:
    """How to split a model's parameters for training, and how to put them together again.

    Attributes:
      name: for reports.
      split: from canonical parameters and a random key to `Parts`.
      join: from the trainable and the frozen part to parameters that the decoder runs. It is called
        inside `jit` and differentiated. The layers may come in several groups.
      settings: a frozen record of the choices made, for reports; None if there are none.
      below: from canonical parameters to the number of lowest layers that training leaves as they
        are. Each row then runs through them once, in place of once a step; `join` must put a
        boundary between two groups after them. None runs the whole model at every step.
    """

    name: str
    split: Callable[[Params, jax.Array], Parts]
    join: Callable[[Params, Params], Params]
    settings: Any = None
    below: Callable[[Params], int] | None = None


@dataclasses.dataclass(frozen=True)
class LoRASettings:
    """The size of the low-rank factors.

    Attributes:
      rank: rank of the factors A and B of each matrix.
      alpha: scale; the update of a matrix is `alpha / rank * A B`.
    """

    rank: int = EditSettings.lora_rank
    alpha: float = EditSettings.lora_alpha

    def __post_init__(self) -> None:
        """Refuse a rank that is no size.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=["rank"])


@dataclasses.dataclass(frozen=True)
class AdapterSettings:
    """The size of an adapter.

    Attributes:
      rank: rank of the factors A and B of each matrix.
      layers: number of layers, counted from the last one. None: a quarter of the model's.
    """

    rank: int = EditSettings.adapter_rank
    layers: int | None = EditSettings.last_layers

    def __post_init__(self) -> None:
        """Refuse sizes that train nothing.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=["rank", "layers"])


@dataclasses.dataclass(frozen=True)
class LastLayersSettings:
    """How many layers are trained.

    Attributes:
      count: number of layers, counted from the last one. None: two fifths of the model's.
    """

    count: int | None = EditSettings.last_layers

    def __post_init__(self) -> None:
        """Refuse a number of layers that trains nothing.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=["count"])


@lru_cache
def all_parameters() -> Trainable:
    """Train every parameter."""
    return Trainable("full", _split_nothing, _join_nothing)


@lru_cache
def low_rank(settings: LoRASettings) -> Trainable:
    """Train low-rank factors of every layer matrix (LoRA, Hu et al. 2021, arXiv 2106.09685)."""
    split, join = partial(_split_low_rank, settings), partial(_join_low_rank, settings)
    return Trainable("lora", split, join, settings)


@lru_cache
def adapters(settings: AdapterSettings) -> Trainable:
    """Train an adapter of the last layers, beside weights that stay as they are.

    The result has it as `params["adapters"]`, see `models.adapters`. `split` raises InputError if
    the model has fewer layers.
    """
    split = partial(_split_adapter, settings)
    return Trainable("adapter", split, _join_adapter, settings, partial(_below, settings))


@lru_cache
def upper_layers(settings: LastLayersSettings) -> Trainable:
    """Train the last layers. `split` raises InputError if the model has fewer layers."""
    return Trainable("last-n-layers", partial(_split_layers, settings), _join_layers, settings)


def trainable_of(settings: EditSettings) -> Trainable:
    """What `settings.method` trains, with the sizes in `settings`; None trains the last layers."""
    if settings.method == "lora":
        return low_rank(LoRASettings(settings.lora_rank, settings.lora_alpha))
    if settings.method == "adapter":
        return adapters(AdapterSettings(settings.adapter_rank, settings.last_layers))
    if settings.method == "full":
        return all_parameters()
    return upper_layers(LastLayersSettings(settings.last_layers))


def _split_nothing(params: Params, key: jax.Array) -> Parts:
    return Parts(params, {})


def _join_nothing(trainable: Params, frozen: Params) -> Params:
    return trainable


def last_layers_of(params: Params, count: int | None, share: float) -> int:
    """How many of a model's last layers are trained; a share of them for None.

    Raises:
      InputError: the model has fewer layers.
    """
    layers = group_size(params["layers"])
    last = max(1, round(share * layers)) if count is None else count
    if last > layers:
        raise InputError(f"last_layers={last}: the model has {layers} layers")
    return last


def _split_adapter(settings: AdapterSettings, params: Params, key: jax.Array) -> Parts:
    last = last_layers_of(params, settings.layers, ADAPTED)
    return Parts(init_adapter(params, last, settings.rank, key), split_for(params, last))


def _join_adapter(trainable: Params, frozen: Params) -> Params:
    return {**frozen, "adapters": trainable}


def _below(settings: AdapterSettings, params: Params) -> int:
    return group_size(params["layers"]) - last_layers_of(params, settings.layers, ADAPTED)


def _split_layers(settings: LastLayersSettings, params: Params, key: jax.Array) -> Parts:
    count = group_size(params["layers"])
    last = last_layers_of(params, settings.count, UPPER)
    if last == count:
        lower, upper = (), params["layers"]
    else:
        *lower, upper = split_layers(params, (count - last, last))["layers"]
    frozen = {name: leaf for name, leaf in params.items() if name != "layers"}
    return Parts({"layers": upper}, {**frozen, "layers": tuple(lower)})


def _join_layers(trainable: Params, frozen: Params) -> Params:
    return {**frozen, "layers": (*frozen["layers"], trainable["layers"])}


def _split_low_rank(settings: LoRASettings, params: Params, key: jax.Array) -> Parts:
    """Factors of every matrix of the layers: A is random, B is zero."""
    adapted: Params = {}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params["layers"])):
        inputs = INPUT_AXES.get(path[-1].key)
        if inputs is None or leaf.ndim <= 1 + inputs:  # no matrix: a norm or a bias
            continue
        fan_in = math.prod(leaf.shape[1 : 1 + inputs])
        fan_out = math.prod(leaf.shape[1 + inputs :])
        rank = min(settings.rank, fan_in, fan_out)
        noise = jax.random.normal(jax.random.fold_in(key, i), (leaf.shape[0], fan_in, rank))
        adapted[str(i)] = {
            "a": (noise / fan_in**0.5).astype(leaf.dtype),
            "b": jnp.zeros((leaf.shape[0], rank, fan_out), leaf.dtype),
        }
    return Parts(adapted, params)


def _join_low_rank(settings: LoRASettings, trainable: Params, frozen: Params) -> Params:
    weights, structure = jax.tree.flatten(frozen["layers"])
    scale = settings.alpha / settings.rank
    for i, factor in trainable.items():
        weight = weights[int(i)]
        update = scale * (factor["a"] @ factor["b"])
        weights[int(i)] = weight + update.reshape(weight.shape).astype(weight.dtype)
    return {**frozen, "layers": jax.tree.unflatten(structure, weights)}
