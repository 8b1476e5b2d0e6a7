"""The options of a plan; this module imports no JAX."""

from dataclasses import dataclass

from onceedit_jax.models.dtypes import FloatDtype, WeightDtype
from onceedit_jax.planning.hardware import ChipName


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """A pair of models on hardware that need not be there.

    Attributes:
      plugin: config.json of the plug-in, or a folder that holds one (configs/models/ has some).
      target: the same of the target LLM.
      mesh: how many devices share the work, and how, as in data=2,tensor=8.
      chip: the chip whose published peaks the times are predicted from.
      rows: prompts that are answered at once.
      context: tokens that a row has room for.
      dtype: type of weights and caches.
      target_dtype: type of the target's weights; None takes dtype, and int8 is for its matrices,
        with float16 for the embeddings and bfloat16 for the rest.
    """

    plugin: str
    target: str
    mesh: str = "data=1"
    chip: ChipName = "h100"
    rows: int = 1
    context: int = 1024
    dtype: FloatDtype = "bfloat16"
    target_dtype: WeightDtype | None = None
