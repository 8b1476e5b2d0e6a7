"""Parts that editors share: rows of edits, a layer's down-projection W, and the loss of an answer.

The papers write column vectors, W k. The decoder writes rows, `k @ down`: `down` [F, D] is their W
transposed, and so is every update here.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.models.intervention import Observed, isolate_layer, observe
from onceedit_jax.models.layout import group_size, layer_groups
from onceedit_jax.types import Params


class Rows(NamedTuple):
    """Texts, each a prompt and its answer, right-padded.

    Attributes:
      tokens: int32.
      positions: int32, -1 on padding.
      columns: where each token of the answer is predicted; the first one ends the prompt.
      targets: the tokens of the answer, -1 after its end.
    """

    tokens: Int[Array, "batch length"]
    positions: Int[Array, "batch length"]
    columns: Int[Array, "batch answer"]
    targets: Int[Array, "batch answer"]


class Edit(NamedTuple):
    """One edit, for methods that write it where the model reads its subject.

    Attributes:
      prompts: the prompt as it is, then after each prefix; all with the answer.
      subject: the column of the subject's last token in each of them.
      essence: one row, without an answer, that begins to say what the subject is.
      essence_subject: the column of the subject's last token there.
    """

    prompts: Rows
    subject: Int[Array, "prompts"]
    essence: Rows
    essence_subject: Int[Array, "1"]


@partial(jax.jit, static_argnames=("config", "layer"))
def observed(params: Params, config: ModelConfig, rows: Rows, layer: int) -> Observed:
    """`models.intervention.observe` on rows, compiled, without a change."""
    return observe(params, config, rows.tokens, rows.positions, layer)


def at(
    columns: Int[Array, "batch"], values: Float[Array, "batch length width"]
) -> Float[Array, "batch width"]:
    """The values in one column of each row."""
    return jnp.take_along_axis(values, columns[:, None, None], axis=1)[:, 0]


def target_loss(
    params: Params, config: ModelConfig, states: Float[Array, "batch length width"], rows: Rows
) -> Float[Array, ""]:
    """-log p(answer | prompt) in nats: the mean over each row's answer tokens, then over rows.

    Args:
      params: for the vocabulary head, which runs in the answer's columns alone.
      config: their configuration.
      states: after the final norm, of the same rows.
      rows: rows without an answer do not count.
    """
    read = jnp.take_along_axis(states, rows.columns[:, :, None], axis=1)
    there = rows.targets >= 0
    losses = optax.softmax_cross_entropy_with_integer_labels(
        unembed(params, config, read), jnp.maximum(rows.targets, 0)
    )
    counts = jnp.sum(there, axis=1)
    by_row = jnp.sum(losses * there, axis=1) / jnp.maximum(counts, 1)
    return jnp.sum(by_row) / jnp.maximum(jnp.sum(counts > 0), 1)


def down_projection(params: Params, layer: int) -> Float[Array, "F D"]:
    """W of a layer's MLP.

    Raises:
      InputError: the model has no such layer.
    """
    groups = layer_groups(isolate_layer(params, layer)["layers"])
    down: jax.Array = groups[_group_of(groups, layer)]["mlp"]["down"][0]
    return down


def with_down_projection(params: Params, layer: int, down: Float[Array, "F D"]) -> Params:
    """The same parameters with another W; that layer is in a group of its own.

    Raises:
      InputError: the model has no such layer.
    """
    isolated = isolate_layer(params, layer)
    groups = list(layer_groups(isolated["layers"]))
    place = _group_of(groups, layer)
    mlp = {**groups[place]["mlp"], "down": down[None].astype(groups[place]["mlp"]["down"].dtype)}
    groups[place] = {**groups[place], "mlp": mlp}
    return {**isolated, "layers": tuple(groups)}


def _group_of(groups: Sequence[Params], layer: int) -> int:
    """The group that begins with `layer`."""
    starts = [sum(map(group_size, groups[:i])) for i in range(len(groups))]
    return starts.index(layer)
