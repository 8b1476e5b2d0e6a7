"""MEMIT and AlphaEdit: many facts at once, written into several layers.

MEMIT (Meng et al. 2023, arXiv 2210.07229) balances the new keys against those of other texts.
AlphaEdit (Fang et al. 2025, arXiv 2410.02355) writes only in directions that those keys do not use.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

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
from onceedit_jax.editors.rank_one import subject_key
from onceedit_jax.editors.rows import located_edits, openings
from onceedit_jax.editors.statistics import Moments, second_moments
from onceedit_jax.editors.values import ValueSettings, value_change
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.intervention import isolate_layer
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.types import Params

LayerUpdate = Callable[[int, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _MultiLayerSettings(ValueSettings):
    layers: Sequence[int]
    prefixes: int = 4

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        super().__post_init__()
        object.__setattr__(self, "layers", tuple(sorted(self.layers)))  # YAML has lists only
        if not self.layers:
            raise InputError("setting layers=(): expected at least one layer to write into")
        check_settings(self, not_negative=["prefixes"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class MEMITSettings(_MultiLayerSettings):
    """Where MEMIT writes, how it finds its values, and what it weighs them against.

    Attributes:
      layers: the layers that share the edits.
      prefixes: beginnings of texts that are put before a prompt.
      moment_ridge: ridge of the keys' second moment, see `statistics.ridged`.
      moment_weight: lambda, the weight of the keys of other texts (paper, GPT-J: 15,000).
    """

    moment_ridge: float = 1e-3
    moment_weight: float = 15_000.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        super().__post_init__()
        check_settings(self, above_zero=["moment_weight"], not_negative=["moment_ridge"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlphaEditSettings(_MultiLayerSettings):
    """Where AlphaEdit writes, and how it finds its values.

    Attributes:
      layers: the layers that share the edits.
      prefixes: beginnings of texts that are put before a prompt.
      threshold: eigenvalues of C below it belong to the null space (paper: 0.01, its code: 0.02).
      ridge: weight of the update's own size (paper: 1, its code: 10).
    """

    threshold: float = 0.02
    ridge: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        super().__post_init__()
        check_settings(self, above_zero=["threshold", "ridge"])


@editor_factory(MEMITSettings)
def memit(settings: MEMITSettings) -> Editor:
    """MEMIT as an editor; its records need a subject. Takes the fields of `MEMITSettings`."""

    def init(params: Params, config: ModelConfig, texts: Sequence[TextBatch]) -> Moments:
        return second_moments(params, config, texts, settings.layers, settings.moment_ridge)

    return Editor("memit", partial(_update, memit_params, settings), init, settings=settings)


@editor_factory(AlphaEditSettings)
def alphaedit(settings: AlphaEditSettings) -> Editor:
    """AlphaEdit as an editor; its records need a subject. Takes fields of `AlphaEditSettings`."""

    def init(params: Params, config: ModelConfig, texts: Sequence[TextBatch]) -> Moments:
        return second_moments(params, config, texts, settings.layers)

    update = partial(_update, alphaedit_params, settings)
    return Editor("alphaedit", update, init, settings=settings)


def _update(
    write: Callable[..., Params],
    settings: _MultiLayerSettings,
    state: Moments,
    params: Params,
    config: ModelConfig,
    inputs: EditorInputs,
) -> EditorResult:
    prefixes = openings(inputs.texts, settings.prefixes)
    edits = located_edits(inputs.records, inputs.tokenizer, prefixes=prefixes)
    return EditorResult(write(params, config, edits, state, settings), state)


def memit_update(
    moment: Float[Array | np.ndarray, "F F"],
    keys: Float[Array | np.ndarray, "N F"],
    residuals: Float[Array | np.ndarray, "N D"],
    weight: float,
) -> Float[Array, "F D"]:
    """R K^T (lambda C + K K^T)^-1 (MEMIT, equations 14 and 15), transposed.

    The change that minimises ||change K - R||^2 + lambda tr(change C change^T).

    Args:
      moment: C.
      keys: K transposed.
      residuals: R transposed.
      weight: lambda.

    Returns:
      float32, solved in float64 on the host, because C is ill-conditioned.

    Raises:
      numpy.linalg.LinAlgError: lambda C + K K^T is singular.
    """
    moment, keys, residuals = (np.asarray(a, np.float64) for a in (moment, keys, residuals))
    change = np.linalg.solve(weight * moment + keys.T @ keys, keys.T @ residuals)
    return jnp.asarray(change, jnp.float32)


def null_space(
    moment: Float[Array | np.ndarray, "F F"], threshold: float
) -> Float64[np.ndarray, "F F"]:
    """P, the projection on C's eigenvectors with eigenvalues below `threshold`.

    AlphaEdit, equations 8 and 9: an update in this space leaves the answers to the keys in C as
    they are.
    """
    values, vectors = np.linalg.eigh(np.asarray(moment, np.float64))
    small = vectors[:, values < threshold]
    projection: Float64[np.ndarray, "F F"] = small @ small.T
    return projection


def alphaedit_update(
    projection: Float[Array | np.ndarray, "F F"],
    keys: Float[Array | np.ndarray, "N F"],
    residuals: Float[Array | np.ndarray, "N D"],
    ridge: float,
) -> Float[Array, "F D"]:
    """R K^T P (K K^T P + ridge I)^-1 (AlphaEdit, equation 14), transposed.

    The change that minimises ||change P K - R||^2 + ridge ||change P||^2, times P. All edits are
    made at once, so the paper's term for earlier edits is absent.

    Args:
      projection: P.
      keys: K transposed.
      residuals: R transposed.
      ridge: above 0.

    Returns:
      float32, in the range of P.
    """
    # P K in place of K gives the same change, from a matrix that is symmetric.
    projection = np.asarray(projection, np.float64)
    inside = np.asarray(keys, np.float64) @ projection
    return memit_update(np.eye(len(projection)), inside, residuals, ridge)


def memit_params(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Edit],
    moments: Moments,
    settings: MEMITSettings,
) -> Params:
    """All edits at once, spread over the settings' layers (MEMIT, algorithm 1).

    Args:
      params: of the model before the edits; they are not changed.
      config: its configuration.
      edits: N of them.
      moments: C of each layer, positive definite.
      settings: see `MEMITSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: no such layer, or several in a model whose MLP outputs are normalised.
    """

    def update(layer: int, keys: jax.Array, residuals: jax.Array) -> jax.Array:
        return memit_update(moments[layer], keys, residuals, settings.moment_weight)

    return _spread(params, config, edits, update, settings)


def alphaedit_params(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Edit],
    moments: Moments,
    settings: AlphaEditSettings,
) -> Params:
    """`memit_params` with updates that stay in the null space of C.

    Args:
      params: of the model before the edits; they are not changed.
      config: its configuration.
      edits: N of them.
      moments: C of each layer.
      settings: see `AlphaEditSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: no such layer, or several in a model whose MLP outputs are normalised.
    """

    def update(layer: int, keys: jax.Array, residuals: jax.Array) -> jax.Array:
        projection = null_space(moments[layer], settings.threshold)
        return alphaedit_update(projection, keys, residuals, settings.ridge)

    return _spread(params, config, edits, update, settings)


def _spread(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Edit],
    update: LayerUpdate,
    settings: _MultiLayerSettings,
) -> Params:
    """Update layer by layer, each by its share of what is still missing (MEMIT, equation 20).

    What is missing is measured in the residual stream after the last layer, to which every
    layer's MLP adds. A norm after the MLP breaks that; with one layer the stream cancels out.
    """
    layers = settings.layers
    if len(layers) > 1 and config.post_norms:
        raise InputError(
            f"layers {', '.join(map(str, layers))}: this model normalises the outputs of its MLPs, "
            "so an edit cannot be shared among several layers; give one layer"
        )
    last = layers[-1]

    def streams(params: Params) -> jax.Array:
        opened = isolate_layer(params, last)
        after = [observed(opened, config, edit.prompts, last).stream for edit in edits]
        return jnp.stack([at(e.subject, x)[0] for e, x in zip(edits, after, strict=True)])

    opened = isolate_layer(params, last)
    changes = [value_change(opened, config, edit, last, settings) for edit in edits]
    wanted = streams(params) + jnp.stack(changes)
    for n, layer in enumerate(layers):
        opened = isolate_layer(params, layer)
        keys = jnp.stack([subject_key(opened, config, edit, layer) for edit in edits])
        share = (wanted - streams(params)) / (len(layers) - n)
        down = down_projection(opened, layer) + update(layer, keys, share)
        params = stack_layers(with_down_projection(opened, layer, down))
    return params
