"""MEMIT and AlphaEdit: many facts at once, written into several layers.

MEMIT (Meng et al. 2023, arXiv 2210.07229) balances them against the keys there were; AlphaEdit
(Fang et al. 2025, arXiv 2410.02355) writes only where those keys have no part.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike, NDArray

from onceedit_jax.checks import check_settings
from onceedit_jax.editors.layers import (
    Edit,
    at,
    down_projection,
    observed,
    with_down_projection,
)
from onceedit_jax.editors.rome import subject_key
from onceedit_jax.editors.values import ValueSettings, value_change
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, stack_layers
from onceedit_jax.models.intervention import isolate_layer

Update = Callable[[int, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class MEMITSettings(ValueSettings):
    """How MEMIT finds its values, and what it weighs them against.

    Attributes:
      moment_weight: lambda, what the keys there were count for (paper, GPT-J: 15,000).
    """

    moment_weight: float = 15_000.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        super().__post_init__()
        check_settings(self, above_zero=["moment_weight"])


@dataclasses.dataclass(frozen=True)
class AlphaEditSettings(ValueSettings):
    """How AlphaEdit finds its values, and where it writes them.

    Attributes:
      threshold: eigenvalues of C under it belong to the null space (paper: 0.01, its code: 0.02).
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


def memit_update(
    moment: ArrayLike, keys: ArrayLike, residuals: ArrayLike, weight: float
) -> jax.Array:
    """R K^T (lambda C + K K^T)^-1 (MEMIT, equations 14 and 15), transposed.

    The change that minimises ||change K - R||^2 + lambda tr(change C change^T).

    Args:
      moment: C [F, F].
      keys: K transposed, [N, F].
      residuals: R transposed, [N, D].
      weight: lambda.

    Returns:
      [F, D] float32; solved in float64 on the host, since C is far from well-conditioned.

    Raises:
      numpy.linalg.LinAlgError: lambda C + K K^T is singular.
    """
    moment, keys, residuals = (np.asarray(a, np.float64) for a in (moment, keys, residuals))
    change = np.linalg.solve(weight * moment + keys.T @ keys, keys.T @ residuals)
    return jnp.asarray(change, jnp.float32)


def null_space(moment: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """P [F, F], the projection on C's eigenvectors with eigenvalues under `threshold`.

    AlphaEdit, equations 8 and 9: what is written there leaves the answers to the keys behind C
    alone.
    """
    values, vectors = np.linalg.eigh(np.asarray(moment, np.float64))
    kept = vectors[:, values < threshold]
    return kept @ kept.T


def alphaedit_update(
    projection: ArrayLike, keys: ArrayLike, residuals: ArrayLike, ridge: float
) -> jax.Array:
    """R K^T P (K K^T P + ridge I)^-1 (AlphaEdit, equation 14), transposed.

    The change that minimises ||change P K - R||^2 + ridge ||change P||^2, times P. All edits are
    made at once, so that the paper's term of edits before these is absent.

    Args:
      projection: P [F, F].
      keys: K transposed, [N, F].
      residuals: R transposed, [N, D].
      ridge: above 0.

    Returns:
      [F, D] float32, in the range of P.
    """
    # P K in place of K gives the same change, from a matrix that is symmetric.
    projection = np.asarray(projection, np.float64)
    inside = np.asarray(keys, np.float64) @ projection
    return memit_update(np.eye(len(projection)), inside, residuals, ridge)


def memit(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Edit],
    moments: Mapping[int, jax.Array],
    settings: MEMITSettings = MEMITSettings(),
) -> Params:
    """All edits at once, spread over the layers of `moments` (MEMIT, algorithm 1).

    Args:
      params: of the model before the edits; kept as they are.
      config: its configuration.
      edits: N of them.
      moments: each layer's C [F, F], positive definite.
      settings: see `MEMITSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: no such layer, or several in a model whose MLP outputs are normalised.
    """

    def update(layer: int, keys: jax.Array, residuals: jax.Array) -> jax.Array:
        return memit_update(moments[layer], keys, residuals, settings.moment_weight)

    return _spread(params, config, edits, sorted(moments), update, settings)


def alphaedit(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Edit],
    moments: Mapping[int, jax.Array],
    settings: AlphaEditSettings = AlphaEditSettings(),
) -> Params:
    """`memit` whose updates stay in the null space of C.

    Args:
      params: of the model before the edits; kept as they are.
      config: its configuration.
      edits: N of them.
      moments: each layer's C [F, F].
      settings: see `AlphaEditSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: no such layer, or several in a model whose MLP outputs are normalised.
    """

    def update(layer: int, keys: jax.Array, residuals: jax.Array) -> jax.Array:
        projection = null_space(moments[layer], settings.threshold)
        return alphaedit_update(projection, keys, residuals, settings.ridge)

    return _spread(params, config, edits, sorted(moments), update, settings)


def _spread(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Edit],
    layers: Sequence[int],
    update: Update,
    settings: ValueSettings,
) -> Params:
    """Update layer by layer, each by its share of what is still missing (MEMIT, equation 20).

    What is missing is measured in the residual stream after the last layer, to which every
    layer's MLP adds. A norm behind the MLP breaks that; with one layer the stream cancels.
    """
    if len(layers) > 1 and config.post_norms:
        raise InputError(
            f"layers {', '.join(map(str, layers))}: this model normalises what its MLPs write, so "
            "that an edit cannot be shared out among layers; give one layer"
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
