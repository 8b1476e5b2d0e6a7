"""FT-L: one layer's down-projection, fine-tuned within a small distance of where it was.

Constrained fine-tuning of Zhu et al. (arXiv 2012.00363), as ROME (arXiv 2202.05262, section 3.2,
FT+L) compares itself with it: no weight moves farther than a bound.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from onceedit_jax.checks import check_settings
from onceedit_jax.editors.layers import Rows, down_projection, target_loss, with_down_projection
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, hidden_states, stack_layers


@dataclasses.dataclass(frozen=True)
class FTLSettings:
    """How far and how long W is trained.

    Attributes:
      learning_rate: of Adam.
      epochs: passes over the batches, at most.
      enough: a pass whose mean loss is under this is the last.
      bound: most that any weight may change (L-infinity).
    """

    learning_rate: float = 5e-4
    epochs: int = 25
    enough: float = 1e-2
    bound: float = 5e-4

    def __post_init__(self) -> None:
        """Refuse settings that cannot train.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        above_zero = dataclasses.asdict(self).keys() - {"enough"}
        check_settings(self, above_zero=above_zero, not_negative=["enough"])


def ftl(
    params: Params,
    config: ModelConfig,
    batches: Sequence[Rows],
    layer: int,
    settings: FTLSettings = FTLSettings(),
) -> Params:
    """Minimise -log p(target | prompt) over W of one layer, subject to |W - W0| <= bound.

    Projected gradient descent: after each step W is clipped to the bound. The same batches come
    in the same order in every epoch.

    Args:
      params: of the model before the edit; kept as they are.
      config: its configuration.
      batches: all edits, in batches of one shape.
      layer: the layer that is trained.
      settings: see `FTLSettings`.

    Returns:
      Parameters in canonical form.

    Raises:
      InputError: the model has no such layer.
    """
    first = down_projection(params, layer)
    params = with_down_projection(params, layer, first)
    down, state = first, optax.adam(settings.learning_rate).init(first)
    for _ in range(settings.epochs):
        losses = []
        for rows in batches:
            down, state, loss = _step(params, first, down, state, rows, config, layer, settings)
            losses.append(loss)
        if jnp.mean(jnp.stack(losses)) < settings.enough:
            break
    return stack_layers(with_down_projection(params, layer, down))


@partial(jax.jit, donate_argnames="state", static_argnames=("config", "layer", "settings"))
def _step(
    params: Params,
    first: jax.Array,
    down: jax.Array,
    state: Any,
    rows: Rows,
    config: ModelConfig,
    layer: int,
    settings: FTLSettings,
) -> tuple[jax.Array, Any, jax.Array]:
    def objective(down: jax.Array) -> jax.Array:
        edited = with_down_projection(params, layer, down)
        states, _ = hidden_states(edited, config, rows.tokens, rows.positions)
        return target_loss(edited, config, states, rows)

    loss, gradient = jax.value_and_grad(objective)(down)
    updates, state = optax.adam(settings.learning_rate).update(gradient, state)
    moved = optax.apply_updates(down, updates)
    return jnp.clip(moved, first - settings.bound, first + settings.bound), state, loss
