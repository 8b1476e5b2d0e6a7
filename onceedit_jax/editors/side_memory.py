"""WISE with one side memory: a second W that answers for the edits (arXiv 2405.14768).

The side memory is a copy of one layer's down-projection. The difference between the two on a prompt
decides whether the prompt is about an edit. The paper also splits a stream of edits into masked
subspaces and merges them; that is left out, because all edits come at once here. Its margins are
for models of 4,096 units: choose them by the model's own activations.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.checks import check_settings
from onceedit_jax.editing.batches import TextBatch, text_batches
from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, editor_factory
from onceedit_jax.editors.layers import (
    Rows,
    down_projection,
    observed,
    target_loss,
    with_down_projection,
)
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.intervention import isolate_layer, observe
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.types import Params

BATCH = 8  # edits a step, each beside an unrelated text


@dataclasses.dataclass(frozen=True)
class WISESettings:
    """Where the side memory is, how it is trained, and when it answers.

    Attributes:
      layer: the layer whose MLP gets the side memory.
      learning_rate: of Adam (paper: SGD at 1).
      epochs: passes over the batches.
      quiet: alpha, most activation of an unrelated text (paper: 5).
      loud: beta, least activation of an edit (paper: 20).
      margin: gamma, least difference of the two (paper: 10).
      share: the side memory answers from this share of the edits' least activation up (paper: 1).
    """

    layer: int
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
        check_settings(self, above_zero=dataclasses.asdict(self).keys() - {"layer"})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SideMemory:
    """A second W, and when it answers.

    Attributes:
      down: W' transposed, [F, D].
      threshold: least activation with which it answers, a float32 scalar.
    """

    down: jax.Array
    threshold: jax.Array


@editor_factory(WISESettings)
def wise(settings: WISESettings) -> Editor:
    """WISE as an editor; its memory is a `SideMemory`. Takes the fields of `WISESettings`."""
    update, read = partial(_update, settings), partial(_read, settings)
    return Editor("wise", update, read=read, settings=settings)


def _update(
    settings: WISESettings, state: None, params: Params, config: ModelConfig, inputs: EditorInputs
) -> EditorResult:
    if not inputs.unrelated:
        raise InputError(
            "wise: no unrelated prompts given; it learns from them when to stay silent: pass "
            "`unrelated`, prompts that no edit is about"
        )
    batches = target_rows(inputs.records, inputs.tokenizer, batch_size=BATCH)
    unrelated = text_batches(inputs.unrelated, inputs.tokenizer, batch_size=BATCH)
    return EditorResult(params, wise_memory(params, config, batches, unrelated, settings))


def _read(
    settings: WISESettings,
    state: SideMemory,
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    prompt_ends: jax.Array,
) -> jax.Array:
    place = tokens, positions, prompt_ends
    states: jax.Array = wise_states(params, config, *place, state, settings.layer)
    return states


def activation(
    key: Float[Array, "B T F"], change: Float[Array, "F D"], columns: Int[Array, "B"]
) -> Float[Array, "B"]:
    """Mean of ||(W' - W) k|| over a prompt's tokens (WISE, equation 3).

    Args:
      key: of right-padded rows.
      change: W' - W transposed.
      columns: the last token of each prompt.

    Returns:
      float32.
    """
    # Not `jnp.linalg.norm`: its gradient is NaN where W' still equals W.
    moved = jnp.sqrt(jnp.sum(jnp.square(_written(key, change)), axis=-1) + 1e-12)
    prompt = jnp.arange(key.shape[1]) <= columns[:, None]
    return jnp.sum(moved * prompt, axis=1) / jnp.sum(prompt, axis=1)


def margin_loss(
    edits: Float[Array, "B"], others: Float[Array, "B"], settings: WISESettings
) -> Float[Array, "B"]:
    """Hinges that separate the activations of edits and of unrelated texts (WISE, equation 6).

    Returns:
      max(0, other - alpha) + max(0, beta - edit) + max(0, gamma - (edit - other)), float32.
    """
    return (
        jax.nn.relu(others - settings.quiet)
        + jax.nn.relu(settings.loud - edits)
        + jax.nn.relu(settings.margin - (edits - others))
    )


def wise_memory(
    params: Params,
    config: ModelConfig,
    batches: Sequence[Rows],
    unrelated: Sequence[TextBatch],
    settings: WISESettings,
) -> SideMemory:
    """Train a side memory on all edits, each beside an unrelated text.

    Args:
      params: of the model; they are not changed.
      config: its configuration.
      batches: all edits, in batches of one shape.
      unrelated: at least one batch, of as many rows as those of `batches`; every step takes the
        next one.
      settings: see `WISESettings`.

    Raises:
      InputError: the model has no such layer.
    """
    layer = settings.layer
    params = isolate_layer(params, layer)
    first = down_projection(params, layer)
    down, state, count = first, optax.adam(settings.learning_rate).init(first), 0
    for _ in range(settings.epochs):
        for rows in batches:
            other = unrelated[count % len(unrelated)]
            down, state = _step(params, first, down, state, rows, other, config, settings)
            count += 1
    least = jnp.asarray(jnp.inf)
    for rows in batches:
        key = observed(params, config, rows, layer).key
        active = activation(key, down - first, rows.columns[:, 0])
        least = jnp.minimum(least, jnp.min(jnp.where(_real(rows), active, jnp.inf)))
    return SideMemory(down, settings.share * least)


@partial(jax.jit, static_argnames=("config", "layer"))
def wise_states(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    columns: Int[Array, "B"],
    memory: SideMemory,
    layer: int,
) -> Float[Array, "B T D"]:
    """States after the final norm, of the model with a side memory (WISE, equation 5).

    Rows whose prompt activates the memory are read with W', all others with W.

    Args:
      params: of the model, which no edit has changed.
      config: its configuration.
      tokens: int32.
      positions: int32, -1 on padding.
      columns: the last token of each row's prompt.
      memory: from `wise_memory`.
      layer: the layer that it was made for.

    Raises:
      InputError: the model has no such layer.
    """
    difference = memory.down - down_projection(params, layer)

    def change(key: jax.Array, output: jax.Array) -> jax.Array:
        routed = _routed(key, difference, columns, memory)
        edited = output + _written(key, difference).astype(output.dtype)
        return jnp.where(routed[:, None, None], edited, output)

    return observe(params, config, tokens, positions, layer, change).states


@partial(jax.jit, static_argnames=("config", "layer"))
def wise_reaches(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    columns: Int[Array, "B"],
    memory: SideMemory,
    layer: int,
) -> Bool[Array, "B"]:
    """Whether each prompt is answered with W'. Arguments: see `wise_states`."""
    key = observe(params, config, tokens, positions, layer).key
    return _routed(key, memory.down - down_projection(params, layer), columns, memory)


def wise_params(params: Params, memory: SideMemory, layer: int) -> Params:
    """The model with W' in W's place: what answers a prompt that activates the memory.

    Raises:
      InputError: the model has no such layer.
    """
    return stack_layers(with_down_projection(params, layer, memory.down))


def _routed(
    key: jax.Array, difference: jax.Array, columns: jax.Array, memory: SideMemory
) -> jax.Array:
    """[B] bool: which prompts activate the memory."""
    return activation(key, difference, columns) >= memory.threshold


@partial(jax.jit, donate_argnames="state", static_argnames=("config", "settings"))
def _step(
    params: Params,
    first: jax.Array,
    down: jax.Array,
    state: Any,
    rows: Rows,
    unrelated: TextBatch,
    config: ModelConfig,
    settings: WISESettings,
) -> tuple[jax.Array, Any]:
    tokens, positions = unrelated
    other_key = observe(params, config, tokens, positions, settings.layer).key
    ends = jnp.argmax(positions, axis=1)
    pairs = _real(rows) & (positions[:, 0] >= 0)

    def objective(down: jax.Array) -> jax.Array:
        difference = down - first

        def change(key: jax.Array, output: jax.Array) -> jax.Array:
            return output + _written(key, difference).astype(output.dtype)

        seen = observe(params, config, rows.tokens, rows.positions, settings.layer, change)
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
    """[B] bool: which rows are edits, and not there only to fill the batch."""
    return jnp.any(rows.targets >= 0, axis=1)
