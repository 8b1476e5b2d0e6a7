"""Plug-ins that were edited apart become one: what each has learnt is added to the base."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.errors import InputError
from onceedit_jax.models.weights import LoadedModel


def merge(base: LoadedModel, plugins: Sequence[EditedPlugin], *, scale: float = 1.0) -> Trained:
    """Task arithmetic (Ilharco et al. 2023, arXiv 2212.04089): base + scale * sum(edited - base).

    [WEIGHT]'s rows, which start from nothing, are added up in the same way. `finalize_artifact`
    makes an artifact of the result: its thresholds have to be calibrated anew.

    Args:
      base: the model that all of them were edited from.
      plugins: edited plug-ins, at least one.
      scale: 1 keeps the whole of every change; 1 / len(plugins) averages.

    Raises:
      InputError: no plug-ins, or one of another base.
    """
    if not plugins:
        raise InputError("merge: no plug-ins given; expected at least one")
    for plugin in plugins:
        if plugin.info.in_adapters:
            raise InputError(
                f"merge: the edits of {plugin.name} are in adapters beside the weights, which are "
                "added up here; expected plug-ins whose weights were edited"
            )
        if plugin.base_hash != base.content_hash:
            raise InputError(
                f"merge: an edited {plugin.name} whose base has hash {plugin.base_hash[:12]}; "
                f"expected {base.name}, {base.content_hash[:12]}"
            )

    def added(start: jax.Array, *edited: jax.Array) -> jax.Array:
        changes = sum(leaf.astype(jnp.float32) - start for leaf in edited)
        return (start + scale * changes).astype(start.dtype)

    params = jax.tree.map(added, base.params, *(plugin.params for plugin in plugins))
    kernel = scale * sum(jnp.asarray(plugin.gate["kernel"]) for plugin in plugins)
    return Trained(params, {"kernel": jnp.asarray(kernel)}, [])
