"""When the plug-in drafts for what a target says alone, and what that costs."""

from typing import Any

from jax.sharding import Mesh

from onceedit_jax.decoding.options import Speculate
from onceedit_jax.decoding.speculation import Helper
from onceedit_jax.distributed.mesh import platform_of
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.layout import layer_groups
from onceedit_jax.models.parameters import active_parameters

MOST = 0.25  # the largest plug-in beside which "auto" drafts, as a share of the target's weights
# What each further token of a pass costs, in passes over a single one. Accelerators wait for the
# weights meanwhile. One core of a CPU took 1.6 times as long for 4 tokens, and 1.9 for 8.
COLUMN = {"cpu": 0.12}


def helper_for(params: Any, plugin: EditedPlugin, target: ModelConfig) -> Helper:
    """The plug-in as a helper of a target, with the weights that all its edits share.

    Edits in adapters take no part. Nothing is copied.

    Args:
      params: the plug-in's parameters, in the layout that it decodes with.
      plugin: the plug-in.
      target: the target's configuration.
    """
    step = active_parameters(plugin.config) / active_parameters(target)
    return Helper(
        params, plugin.config, plugin.tokenizer, step, COLUMN.get(platform_of(params), 0.0)
    )


def may_help(helper: Helper, target: Any, mesh: Mesh, speculate: Speculate) -> bool:
    """Whether a helper drafts for a target at all.

    On several devices, which share the rows of a batch, a target always writes alone. With "auto"
    it does so too beside a plug-in that is not small enough, and with unstacked layers on a CPU,
    where a pass over a single token is so quick that no pass over several tokens can pay.

    Args:
      helper: the plug-in.
      target: the target's parameters, in the layout that it decodes with.
      mesh: the devices.
      speculate: see `Speculate`.
    """
    if speculate == "off" or mesh.size > 1:
        return False
    unstacked = len(layer_groups(target["layers"])) > 1 and platform_of(target) == "cpu"
    return speculate == "on" or (helper.step <= MOST and not unstacked)
