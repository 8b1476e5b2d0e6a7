"""WISE, with one side memory: a second W that answers where it was taught to (arXiv 2405.14768).

The side memory is a copy of one layer's down-projection. How far the two differ on a prompt says
whether the prompt is about an edit. The paper's sharding of edits into masked subspaces and their
merging, which is for edits that come one after the other, is left out: all edits come at once.
Its margins are for models of 4,096 units: choose them by the model's own activations.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from onceedit_jax.checks import check_settings
from onceedit_jax.editors.layers import Rows, down_projection, observed, target_loss
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params
from onceedit_jax.models.intervention import isolate_layer, observe


@dataclasses.dataclass(frozen=True)
class WISESettings:
    """How the side memory is trained, and when it answers.

    Attributes:
      learning_rate: of Adam (paper: SGD at 1).
      epochs: passes over the batches.
      quiet: alpha, most activation of an unrelated text (paper: 5).
      loud: beta, least activation of an edit (paper: 20).
      margin: gamma, least difference of the two (paper: 10).
      share: the side memory answers from this share of the edits' least activation on (paper: 1).
    """

    learning_rate: float = 1e-3
    epochs: int = 30
    quiet: float = 5.0
    loud: float = 20.0
    margin: float = 10.0
    share: float = 0.9

    def __post_init__(self) -> None:
        """Refuse settings that cannot train.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=dataclasses.asdict(self))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SideMemory:
    """The second W [F, D], and the activation (float32 scalar) from which on it answers."""

    down: jax.Array
    threshold: jax.Array


def activation(key: jax.Array, change: jax.Array, columns: jax.Array) -> jax.Array:
    """Mean of ||(W' - W) k|| over a prompt's tokens (WISE, equation 3).

    Args:
      key: [B, T, F], rows right-padded.
      change: W' - W transposed, [F, D].
      columns: [B] int32, the last token of each prompt.

    Returns:
      [B] float32.
    """
    # Not `jnp.linalg.norm`: where W' is still W, its gradient is no number.
    moved = jnp.sqrt(jnp.sum(jnp.square(_written(key, change)), axis=-1) + 1e-12)
    prompt = jnp.arange(key.shape[1]) <= columns[:, None]
    return jnp.sum(moved * prompt, axis=1) / jnp.sum(prompt, axis=1)


def margin_loss(edits: jax.Array, others: jax.Array, settings: WISESettings) -> jax.Array:
    """Hinges that part the activations of edits [B] and unrelated texts [B] (WISE, equation 6).

    Returns:
      [B] float32: max(0, other - alpha) + max(0, beta - edit) + max(0, gamma - (edit - other)).
    """
    return (
        jax.nn.relu(others - settings.quiet)
        + jax.nn.relu(settings.loud - edits)
        + jax.nn.relu(settings.margin - (edits - others))
    )


def wise(
    params: Params,
    config: ModelConfig,
    batches: Sequence[Rows],
    unrelated: Sequence[tuple[jax.Array, jax.Array]],
    layer: int,
    settings: WISESettings = WISESettings(),
) -> SideMemory:
    """Train a side memory on all edits, each beside an unrelated text.

    Args:
      params: of the model; kept as they are.
      config: its configuration.
      batches: all edits, in batches of B rows and one shape.
      unrelated: tokens [B, S] and positions [B, S] int32 (-1 on padding), right-padded, at least
        one of them and all of one shape; every step takes the next.
      layer: whose MLP gets the side memory.
      settings: see `WISESettings`.

    Returns:
      The side memory.

    Raises:
      InputError: the model has no such layer.
    """
    params = isolate_layer(params, layer)
    first = down_projection(params, layer)
    down, state, count = first, optax.adam(settings.learning_rate).init(first), 0
    for _ in range(settings.epochs):
        for rows in batches:
            other = unrelated[count % len(unrelated)]
            down, state = _step(params, first, down, state, rows, other, config, layer, settings)
            count += 1
    least = jnp.asarray(jnp.inf)
    for rows in batches:
        key = observed(params, config, rows, layer).key
        found = activation(key, down - first, rows.columns[:, 0])
        least = jnp.minimum(least, jnp.min(jnp.where(_real(rows), found, jnp.inf)))
    return SideMemory(down, settings.share * least)


@partial(jax.jit, static_argnames=("config", "layer"))
def wise_states(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    columns: jax.Array,
    memory: SideMemory,
    layer: int,
) -> jax.Array:
    """States [B, T, D] after the final norm, of the model with a side memory (WISE, equation 5).

    A row whose prompt activates the memory is read with its W', every other with W.

    Args:
      params: of the model, which no edit has changed.
      config: its configuration.
      tokens: [B, T] int32.
      positions: [B, T] int32, -1 on padding.
      columns: [B] int32, the last token of each row's prompt.
      memory: from `wise`.
      layer: the layer that it was made for.

    Raises:
      InputError: the model has no such layer.
    """
    difference = memory.down - down_projection(params, layer)

    def change(key: jax.Array, output: jax.Array) -> jax.Array:
        routed = activation(key, difference, columns) >= memory.threshold
        edited = output + _written(key, difference).astype(output.dtype)
        return jnp.where(routed[:, None, None], edited, output)

    return observe(params, config, tokens, positions, layer, change).states


@partial(jax.jit, donate_argnames="state", static_argnames=("config", "layer", "settings"))
def _step(
    params: Params,
    first: jax.Array,
    down: jax.Array,
    state: Any,
    rows: Rows,
    unrelated: tuple[jax.Array, jax.Array],
    config: ModelConfig,
    layer: int,
    settings: WISESettings,
) -> tuple[jax.Array, Any]:
    tokens, positions = unrelated
    other_key = observe(params, config, tokens, positions, layer).key
    ends = jnp.argmax(positions, axis=1)
    pairs = _real(rows) & (positions[:, 0] >= 0)

    def objective(down: jax.Array) -> jax.Array:
        difference = down - first

        def change(key: jax.Array, output: jax.Array) -> jax.Array:
            return output + _written(key, difference).astype(output.dtype)

        seen = observe(params, config, rows.tokens, rows.positions, layer, change)
        edits = activation(seen.key, difference, rows.columns[:, 0])
        others = activation(other_key, difference, ends)
        hinges = jnp.sum(margin_loss(edits, others, settings) * pairs)
        mean = hinges / jnp.maximum(jnp.sum(pairs), 1)
        return target_loss(params, config, seen.states, rows) + mean

    updates, state = optax.adam(settings.learning_rate).update(jax.grad(objective)(down), state)
    return optax.apply_updates(down, updates), state


def _written(key: jax.Array, change: jax.Array) -> jax.Array:
    """(W' - W) k, [B, T, D] float32."""
    return jnp.einsum("btf,fd->btd", key.astype(jnp.float32), change, precision="highest")


def _real(rows: Rows) -> jax.Array:
    """[B] bool, which rows are edits and do not only fill the batch."""
    return jnp.any(rows.targets >= 0, axis=1)
