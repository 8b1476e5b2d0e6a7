"""Which parameters gradient training may change: all, the last n layers, or low-rank factors."""

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
from onceedit_jax.models.layout import INPUT_AXES, split_layers
from onceedit_jax.types import Params

UPPER = 0.4  # share of the layers that are trained by default


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
    """

    name: str
    split: Callable[[Params, jax.Array], Parts]
    join: Callable[[Params, Params], Params]
    settings: Any = None


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
def upper_layers(settings: LastLayersSettings) -> Trainable:
    """Train the last layers. `split` raises InputError if the model has fewer layers."""
    return Trainable("last-n-layers", partial(_split_layers, settings), _join_layers, settings)


def trainable_of(settings: EditSettings) -> Trainable:
    """What `settings.method` trains, with the sizes in `settings`."""
    if settings.method == "lora":
        return low_rank(LoRASettings(settings.lora_rank, settings.lora_alpha))
    if settings.method == "last-n-layers":
        return upper_layers(LastLayersSettings(settings.last_layers))
    return all_parameters()


def _split_nothing(params: Params, key: jax.Array) -> Parts:
    return Parts(params, {})


def _join_nothing(trainable: Params, frozen: Params) -> Params:
    return trainable


def _split_layers(settings: LastLayersSettings, params: Params, key: jax.Array) -> Parts:
    count = jax.tree.leaves(params["layers"])[0].shape[0]
    last = max(1, round(UPPER * count)) if settings.count is None else settings.count
    if last > count:
        raise InputError(f"last_layers={last}: the model has {count} layers")
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
