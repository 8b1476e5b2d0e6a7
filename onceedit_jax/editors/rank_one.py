"""ROME: a fact is one key and one value of one layer (Meng et al. 2022, arXiv 2202.05262)."""

import dataclasses
from collections.abc import Iterable, Sequence
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from onceedit_jax.checks import check_settings
from onceedit_jax.editing.batches import TextBatch
from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, editor_factory
from onceedit_jax.editors.layers import (
    Edit,
    at,
    down_projection,
    observed,
    with_down_projection,
)
from onceedit_jax.editors.rows import located_edits, openings
from onceedit_jax.editors.statistics import Moments, second_moments
from onceedit_jax.editors.values import ValueSettings, value_change
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.intervention import isolate_layer
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class ROMESettings(ValueSettings):
    """Where ROME writes, and how it finds its keys and values.

    Attributes:
      layer: the layer that is edited.
      moment_ridge: ridge of the keys' second moment, see `statistics.ridged`.
      prefixes: beginnings of texts that are put before a prompt.
    """

    layer: int
    moment_ridge: float = 1e-3
    prefixes: int = 4

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        super().__post_init__()
        check_settings(self, not_negative=["moment_ridge", "prefixes"])


@editor_factory(ROMESettings)
def rome(settings: ROMESettings) -> Editor:
    """ROME as an editor; its records need a subject. Takes the fields of `ROMESettings`."""
    return Editor("rome", partial(_update, settings), partial(_init, settings), settings=settings)


def _init(
    settings: ROMESettings, params: Params, config: ModelConfig, texts: Sequence[TextBatch]
) -> Moments:
    return second_moments(params, config, texts, [settings.layer], settings.moment_ridge)


def _update(
    settings: ROMESettings,
    state: Moments,
    params: Params,
    config: ModelConfig,
    inputs: EditorInputs,
) -> EditorResult:
    prefixes = openings(inputs.texts, settings.prefixes)
    edits = located_edits(inputs.records, inputs.tokenizer, prefixes=prefixes)
    edited = rome_params(params, config, edits, state[settings.layer], settings)
    return EditorResult(edited, state)


def rank_one_update(
    down: Float[Array | np.ndarray, "F D"],
    inverse: Float[Array | np.ndarray, "F F"],
    key: Float[Array | np.ndarray, "F"],
    value: Float[Array | np.ndarray, "D"],
) -> Float[Array, "F D"]:
    """W + Lambda (C^-1 k*)^T, Lambda = (v* - W k*) / (C^-1 k*)^T k* (ROME, equation 2).

    The W' with W' k* = v* whose change matters least to other keys: it minimises
    tr((W' - W) C (W' - W)^T).

    Args:
      down: W transposed.
      inverse: C^-1.
      key: k*.
      value: v*.

    Returns:
      float32, computed in float64 on the host, because C is ill-conditioned.
    """
    down, inverse, key, value = (np.asarray(a, np.float64) for a in (down, inverse, key, value))
    direction = inverse @ key
    change = np.outer(direction, (value - key @ down) / (direction @ key))
    return jnp.asarray(down + change, jnp.float32)


def subject_key(params: Params, config: ModelConfig, edit: Edit, layer: int) -> Float[Array, "F"]:
    """k*: the key at the subject's last token, averaged over the prompts (ROME, equation 3)."""
    return at(edit.subject, observed(params, config, edit.prompts, layer).key).mean(axis=0)


def rome_params(
    params: Params,
    config: ModelConfig,
    edits: Iterable[Edit],
    moment: Float[Array, "F F"],
    settings: ROMESettings,
) -> Params:
    """One rank-one update after the other, each computed on the model with the edits before it.

    Args:
      params: of the model before the edits; they are not changed.
      config: its configuration.
      edits: in the order in which they are applied.
      moment: C of the layer's keys before any edit, positive definite.
      settings: see `ROMESettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: the model has no such layer.
    """
    layer = settings.layer
    params = isolate_layer(params, layer)
    inverse = np.linalg.inv(np.asarray(moment, np.float64))
    for edit in edits:
        key = subject_key(params, config, edit, layer)
        down = down_projection(params, layer)
        # v* is W k* plus its change; a bias of the projection stays as it is.
        value = key @ down + value_change(params, config, edit, layer, settings)
        params = with_down_projection(params, layer, rank_one_update(down, inverse, key, value))
    return stack_layers(params)
