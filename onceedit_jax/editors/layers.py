"""What the baselines share: rows of edits, a layer's down-projection W, and the loss of a target.

The papers write column vectors, W k; the decoder writes rows, `k @ down`: `down` [F, D] is their
W transposed, and so is every update here.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params, unembed
from onceedit_jax.models.intervention import Observed, isolate_layer, observe
from onceedit_jax.models.layout import group_size, layer_groups


class Rows(NamedTuple):
    """B texts, each a prompt and its target, right-padded; the target has at most A tokens."""

    tokens: jax.Array  # [B, T] int32
    positions: jax.Array  # [B, T] int32, -1 on padding
    columns: jax.Array  # [B, A] int32, what predicts the target; the first ends the prompt
    targets: jax.Array  # [B, A] int32, the target's tokens, -1 where there are no more


class Edit(NamedTuple):
    """One edit, for a method that writes it where the model reads its subject.

    Attributes:
      prompts: the prompt as it is, then behind each prefix, P rows; all with the target.
      subject: [P] int32, the column of the subject's last token.
      essence: one row, without a target, that begins to say what the subject is.
      essence_subject: [1] int32, likewise.
    """

    prompts: Rows
    subject: jax.Array
    essence: Rows
    essence_subject: jax.Array


@partial(jax.jit, static_argnames=("config", "layer"))
def observed(params: Params, config: ModelConfig, rows: Rows, layer: int) -> Observed:
    """`models.intervention.observe` on rows, compiled and without a change."""
    return observe(params, config, rows.tokens, rows.positions, layer)


def at(columns: jax.Array, values: jax.Array) -> jax.Array:
    """`values` [B, T, D] in one column of each row: `columns` [B] int32 to [B, D]."""
    return jnp.take_along_axis(values, columns[:, None, None], axis=1)[:, 0]


def target_loss(params: Params, config: ModelConfig, states: jax.Array, rows: Rows) -> jax.Array:
    """-log p(target | prompt) in nats: the mean over each row's target tokens, then over rows.

    Args:
      params: for the vocabulary head, which runs in the target's columns alone.
      config: their configuration.
      states: [B, T, D], after the final norm.
      rows: the same B rows; those without a target do not count.

    Returns:
      A float32 scalar.
    """
    read = jnp.take_along_axis(states, rows.columns[:, :, None], axis=1)
    there = rows.targets >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(
        unembed(params, config, read), jnp.maximum(rows.targets, 0)
    )
    counts = jnp.sum(there, axis=1)
    by_row = jnp.sum(losses * there, axis=1) / jnp.maximum(counts, 1)
    return jnp.sum(by_row) / jnp.maximum(jnp.sum(counts > 0), 1)


def down_projection(params: Params, layer: int) -> jax.Array:
    """W of a layer's MLP, [F, D].

    Raises:
      InputError: the model has no such layer.
    """
    groups = layer_groups(isolate_layer(params, layer)["layers"])
    return groups[_place(groups, layer)]["mlp"]["down"][0]


def with_down_projection(params: Params, layer: int, down: jax.Array) -> Params:
    """The same parameters with another W [F, D]; that layer is in a group of its own.

    Raises:
      InputError: the model has no such layer.
    """
    isolated = isolate_layer(params, layer)
    groups = list(layer_groups(isolated["layers"]))
    place = _place(groups, layer)
    mlp = {**groups[place]["mlp"], "down": down[None].astype(groups[place]["mlp"]["down"].dtype)}
    groups[place] = {**groups[place], "mlp": mlp}
    return {**isolated, "layers": tuple(groups)}


def _place(groups: tuple | list, layer: int) -> int:
    """Which group begins with `layer`."""
    starts = [sum(map(group_size, groups[:i])) for i in range(len(groups))]
    return starts.index(layer)
