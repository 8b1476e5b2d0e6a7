"""FT-L: fine-tuning of one layer's down-projection, within a small distance of its old value.

Constrained fine-tuning of Zhu et al. (arXiv 2012.00363) as ROME compares itself with it
(arXiv 2202.05262, section 3.2, FT+L): no weight changes by more than a bound.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from onceedit_jax.checks import check_settings
from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, editor_factory
from onceedit_jax.editors.layers import Rows, down_projection, target_loss, with_down_projection
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.types import Params

BATCH = 8  # edits a step


@dataclasses.dataclass(frozen=True)
class FTLSettings:
    """Where and how long W is trained, and how far it may move.

    Attributes:
      layer: the layer that is trained.
      learning_rate: of Adam.
      epochs: most passes over the batches.
      enough: a pass whose mean loss is below this is the last one.
      bound: most that any weight may change (L-infinity).
    """

    layer: int
    learning_rate: float = 5e-4
    epochs: int = 25
    enough: float = 1e-2
    bound: float = 5e-4

    def __post_init__(self) -> None:
        """Refuse settings that cannot train.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(
            self, above_zero=["learning_rate", "epochs", "bound"], not_negative=["enough"]
        )


@editor_factory(FTLSettings)
def ft_l(settings: FTLSettings) -> Editor:
    """FT-L as an editor. Takes the fields of `FTLSettings`."""
    return Editor("ft-l", partial(_update, settings), settings=settings)


def _update(
    settings: FTLSettings, state: None, params: Params, config: ModelConfig, inputs: EditorInputs
) -> EditorResult:
    batches = target_rows(inputs.records, inputs.tokenizer, batch_size=BATCH)
    return EditorResult(ftl_params(params, config, batches, settings))


def ftl_params(
    params: Params, config: ModelConfig, batches: Sequence[Rows], settings: FTLSettings
) -> Params:
    """Minimise -log p(answer | prompt) over W of one layer, subject to |W - W0| <= bound.

    Projected gradient descent: after each step W is clipped to the bound. Every epoch takes the
    same batches in the same order.

    Args:
      params: of the model before the edit; they are not changed.
      config: its configuration.
      batches: all edits, in batches of one shape.
      settings: see `FTLSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: the model has no such layer.
    """
    layer = settings.layer
    first = down_projection(params, layer)
    params = with_down_projection(params, layer, first)
    down, state = first, optax.adam(settings.learning_rate).init(first)
    for _ in range(settings.epochs):
        losses = []
        for rows in batches:
            down, state, loss = _step(params, first, down, state, rows, config, settings)
            losses.append(loss)
        if jnp.mean(jnp.stack(losses)) < settings.enough:
            break
    return stack_layers(with_down_projection(params, layer, down))


@partial(jax.jit, donate_argnames="state", static_argnames=("config", "settings"))
def _step(
    params: Params,
    first: jax.Array,
    down: jax.Array,
    state: Any,
    rows: Rows,
    config: ModelConfig,
    settings: FTLSettings,
) -> tuple[jax.Array, Any, jax.Array]:
    def objective(down: jax.Array) -> jax.Array:
        edited = with_down_projection(params, settings.layer, down)
        states, _ = hidden_states(edited, config, rows.tokens, rows.positions)
        return target_loss(edited, config, states, rows)

    loss, gradient = jax.value_and_grad(objective)(down)
    updates, state = optax.adam(settings.learning_rate).update(gradient, state)
    moved = optax.apply_updates(down, updates)
    return jnp.clip(moved, first - settings.bound, first + settings.bound), state, loss
