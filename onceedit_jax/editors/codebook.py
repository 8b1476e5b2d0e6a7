"""GRACE: a codebook beside one layer, read at the prompt's last token (arXiv 2211.11031).

The codebook wraps the MLP's down-projection: keys are its inputs, values replace its outputs. No
weight changes, and far from every key the model is as before.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from onceedit_jax.checks import check_settings
from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, editor_factory
from onceedit_jax.editors.layers import Rows, at, observed, target_loss
from onceedit_jax.editors.rows import target_rows
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.intervention import Change, isolate_layer, observe
from onceedit_jax.types import Params


@dataclasses.dataclass(frozen=True)
class GRACESettings:
    """Where the codebook is, how far a new key reaches, and how its value is found.

    Attributes:
      layer: the layer whose MLP is wrapped.
      radius: epsilon, the deferral radius of a new key, in the units of the layer's keys.
      steps: of Adam, from the layer's own output.
      learning_rate: of Adam.
    """

    layer: int
    radius: float = 1.0
    steps: int = 100
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=["radius", "steps", "learning_rate"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook:
    """Keys and their values, with room for M entries, so that more entries compile nothing.

    Attributes:
      keys: [M, F] float32.
      values: [M, D] float32.
      radii: [M] float32, -1 where there is no entry yet.
    """

    keys: jax.Array
    values: jax.Array
    radii: jax.Array


@editor_factory(GRACESettings)
def grace(settings: GRACESettings) -> Editor:
    """GRACE as an editor; its memory is a `Codebook`. Takes the fields of `GRACESettings`."""
    update, read = partial(_update, settings), partial(_read, settings)
    return Editor("grace", update, read=read, settings=settings)


def _update(
    settings: GRACESettings, state: None, params: Params, config: ModelConfig, inputs: EditorInputs
) -> EditorResult:
    edits = target_rows(inputs.records, inputs.tokenizer, batch_size=1)
    return EditorResult(params, grace_codebook(params, config, edits, settings))


def _read(
    settings: GRACESettings,
    state: Codebook,
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    prompt_ends: jax.Array,
) -> jax.Array:
    place = tokens, positions, prompt_ends
    states: jax.Array = grace_states(params, config, *place, state, settings.layer)
    return states


def empty_codebook(config: ModelConfig, entries: int) -> Codebook:
    """A codebook with room for `entries`, which changes nothing yet."""
    return Codebook(
        jnp.zeros((entries, config.mlp_size)),
        jnp.zeros((entries, config.hidden_size)),
        jnp.full(entries, -1.0),
    )


def distances(codebook: Codebook, queries: Float[Array, "B F"]) -> Float[Array, "B M"]:
    """Euclidean distances of queries to the keys; infinite where there is no entry."""
    gaps = jnp.linalg.norm(queries[:, None] - codebook.keys, axis=-1)
    return jnp.where(codebook.radii < 0, jnp.inf, gaps)


def nearest_entry(
    codebook: Codebook, queries: Float[Array, "B F"]
) -> tuple[Int[Array, "B"], Bool[Array, "B"]]:
    """The nearest entry of each query, and whether its radius reaches it."""
    gaps = distances(codebook, queries.astype(jnp.float32))
    nearest = jnp.argmin(gaps, axis=1)
    return nearest, jnp.min(gaps, axis=1) <= codebook.radii[nearest]


@partial(jax.jit, static_argnames=("config", "layer"))
def grace_reaches(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    columns: Int[Array, "B"],
    codebook: Codebook,
    layer: int,
) -> Bool[Array, "B"]:
    """Whether the codebook changes what follows each prompt. Arguments: see `grace_states`."""
    key = observe(params, config, tokens, positions, layer).key
    return nearest_entry(codebook, at(columns, key))[1]


def lookup(codebook: Codebook, columns: Int[Array, "B"]) -> Change:
    """Put the nearest key's value in one column of each row, if its radius reaches (equation 1)."""

    def change(key: jax.Array, output: jax.Array) -> jax.Array:
        nearest, inside = nearest_entry(codebook, at(columns, key))
        here = inside[:, None] & (jnp.arange(key.shape[1]) == columns[:, None])
        values = codebook.values[nearest].astype(output.dtype)
        return jnp.where(here[:, :, None], values[:, None], output)

    return change


@partial(jax.jit, static_argnames=("config", "layer"))
def grace_states(
    params: Params,
    config: ModelConfig,
    tokens: Int[Array, "B T"],
    positions: Int[Array, "B T"],
    columns: Int[Array, "B"],
    codebook: Codebook,
    layer: int,
) -> Float[Array, "B T D"]:
    """States after the final norm, of the model with the codebook at `layer`.

    Args:
      params: of the model, which no edit has changed.
      config: its configuration.
      tokens: int32.
      positions: int32, -1 on padding.
      columns: the last token of each row's prompt.
      codebook: from `grace_codebook`.
      layer: the layer that it was made for.

    Raises:
      InputError: the model has no such layer.
    """
    change = lookup(codebook, columns)
    return observe(params, config, tokens, positions, layer, change).states


def grace_codebook(
    params: Params, config: ModelConfig, edits: Sequence[Rows], settings: GRACESettings
) -> Codebook:
    """Write edits one after the other (algorithm 1): a key for each that overlaps with no other.

    If a new edit overlaps with the nearest entry and has the same answer, that entry is widened.
    With another answer, both keys reach half of the distance between them.

    Args:
      params: of the model; they are not changed.
      config: its configuration.
      edits: at least one, of one row each and all of one shape.
      settings: see `GRACESettings`.

    Returns:
      A codebook with room for as many entries as there are edits.

    Raises:
      InputError: the model has no such layer.
    """
    layer = settings.layer
    params = isolate_layer(params, layer)
    codebook = empty_codebook(config, len(edits))
    labels: list[tuple[int, ...]] = []
    for rows in edits:
        seen = observed(params, config, rows, layer)
        key, output = (at(rows.columns[:, 0], part)[0] for part in (seen.key, seen.output))
        label = tuple(np.asarray(rows.targets)[0].tolist())
        gaps = np.asarray(distances(codebook, key[None].astype(jnp.float32)))[0]
        nearest = int(gaps.argmin())
        gap, reach = float(gaps[nearest]), float(codebook.radii[nearest])
        radius = settings.radius
        if gap <= reach + radius:
            if label == labels[nearest]:
                # A little more than the gap: another batch may round differently.
                wider = codebook.radii.at[nearest].max(1.001 * gap)
                codebook = dataclasses.replace(codebook, radii=wider)
                continue
            radius = gap / 2
            narrower = codebook.radii.at[nearest].set(radius)
            codebook = dataclasses.replace(codebook, radii=narrower)
        value = _value(params, config, rows, output, settings)
        entry = len(labels)
        codebook = Codebook(
            codebook.keys.at[entry].set(key),
            codebook.values.at[entry].set(value),
            codebook.radii.at[entry].set(radius),
        )
        labels.append(label)
    return codebook


@partial(jax.jit, static_argnames=("config", "settings"))
def _value(
    params: Params, config: ModelConfig, rows: Rows, output: jax.Array, settings: GRACESettings
) -> jax.Array:
    """The value [D] that, in place of the layer's output [D], makes the answer follow."""
    here = jax.nn.one_hot(rows.columns[:, 0], rows.tokens.shape[1], dtype=bool)[:, :, None]
    optimizer = optax.adam(settings.learning_rate)

    def objective(value: jax.Array) -> jax.Array:
        def change(key: jax.Array, output: jax.Array) -> jax.Array:
            return jnp.where(here, value.astype(output.dtype), output)

        seen = observe(params, config, rows.tokens, rows.positions, settings.layer, change)
        return target_loss(params, config, seen.states, rows)

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], None]:
        value, state = carry
        updates, state = optimizer.update(jax.grad(objective)(value), state)
        return (optax.apply_updates(value, updates), state), None

    start = output.astype(jnp.float32)
    (value, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=settings.steps)
    return value
