"""Lays the models of an ensemble over its devices."""

import dataclasses
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh

from onceedit_jax.distributed.mesh import replicate
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.models.adapters import adapted_layers, split_for
from onceedit_jax.models.sharding import place
from onceedit_jax.models.weights import LoadedModel

M = TypeVar("M", EditedPlugin, LoadedModel)


def placed(mesh: Mesh, tree: Any) -> Any:
    """A pytree on every device of a mesh."""
    return replicate(mesh, tree) if mesh.size > 1 else tree


def spread_plugin(mesh: Mesh, plugin: EditedPlugin) -> EditedPlugin:
    """A plug-in whose parameters lie over the mesh, split where its adapters begin."""
    if plugin.adapters is None:
        return spread(mesh, plugin)
    together = {**plugin.params, "adapters": plugin.adapters}
    laid = spread(mesh, dataclasses.replace(plugin, params=together))
    params = split_for(laid.params, adapted_layers(plugin.adapters))
    own = {name: part for name, part in params.items() if name != "adapters"}
    return dataclasses.replace(laid, params=own, adapters=params["adapters"])


def spread(mesh: Mesh, model: M) -> M:
    """A model whose parameters lie over the mesh."""
    if mesh.size > 1 or jax.local_device_count() > 1:
        params, config = place(mesh, model.params, model.config)
        return dataclasses.replace(model, params=params, config=config)
    return model
