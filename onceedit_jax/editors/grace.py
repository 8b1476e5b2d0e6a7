"""GRACE: a codebook beside one layer, asked at the prompt's last token (arXiv 2211.11031).

The layer that is wrapped is the MLP's down-projection: keys are what it reads, values what it
writes in its stead. No weight changes, and far from every key the model is what it was.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from onceedit_jax.checks import check_settings
from onceedit_jax.editors.layers import Rows, at, observed, target_loss
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params
from onceedit_jax.models.intervention import Change, isolate_layer, observe


@dataclasses.dataclass(frozen=True)
class GRACESettings:
    """How wide a new key reaches and how its value is found.

    Attributes:
      radius: epsilon, the deferral radius of a new key, in the units of the layer's keys.
      steps: of Adam, from the layer's own output.
      learning_rate: of Adam.
    """

    radius: float = 1.0
    steps: int = 100
    learning_rate: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot edit.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(self, above_zero=dataclasses.asdict(self))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Codebook:
    """Room for M entries, so that a longer codebook compiles nothing anew.

    Attributes:
      keys: [M, F] float32.
      values: [M, D] float32.
      radii: [M] float32, -1 where there is no entry yet.
    """

    keys: jax.Array
    values: jax.Array
    radii: jax.Array


def empty_codebook(config: ModelConfig, entries: int) -> Codebook:
    """A codebook with room for `entries`, which changes nothing yet."""
    return Codebook(
        jnp.zeros((entries, config.mlp_size)),
        jnp.zeros((entries, config.hidden_size)),
        jnp.full(entries, -1.0),
    )


def distances(codebook: Codebook, queries: jax.Array) -> jax.Array:
    """Euclidean distances [B, M] of queries [B, F] to the keys; infinite where there is none."""
    gaps = jnp.linalg.norm(queries[:, None] - codebook.keys, axis=-1)
    return jnp.where(codebook.radii < 0, jnp.inf, gaps)


def lookup(codebook: Codebook, columns: jax.Array) -> Change:
    """The nearest key's value in column `columns` [B], where that key's radius reaches (eq. 1)."""

    def change(key: jax.Array, output: jax.Array) -> jax.Array:
        gaps = distances(codebook, at(columns, key).astype(jnp.float32))
        nearest = jnp.argmin(gaps, axis=1)
        inside = jnp.min(gaps, axis=1) <= codebook.radii[nearest]
        here = inside[:, None] & (jnp.arange(key.shape[1]) == columns[:, None])
        values = codebook.values[nearest].astype(output.dtype)
        return jnp.where(here[:, :, None], values[:, None], output)

    return change


@partial(jax.jit, static_argnames=("config", "layer"))
def grace_states(
    params: Params,
    config: ModelConfig,
    tokens: jax.Array,
    positions: jax.Array,
    columns: jax.Array,
    codebook: Codebook,
    layer: int,
) -> jax.Array:
    """States [B, T, D] after the final norm, of the model with the codebook at `layer`.

    Args:
      params: of the model, which no edit has changed.
      config: its configuration.
      tokens: [B, T] int32.
      positions: [B, T] int32, -1 on padding.
      columns: [B] int32, the last token of each row's prompt.
      codebook: from `grace`.
      layer: the layer that it was made for.

    Raises:
      InputError: the model has no such layer.
    """
    change = lookup(codebook, columns)
    return observe(params, config, tokens, positions, layer, change).states


def grace(
    params: Params,
    config: ModelConfig,
    edits: Sequence[Rows],
    layer: int,
    settings: GRACESettings = GRACESettings(),
) -> Codebook:
    """Write edits one after the other (algorithm 1): a key each, wherever they don't overlap.

    A new edit that overlaps with the nearest entry widens it, if the target is the same, and
    otherwise both keep to their half of the way between them.

    Args:
      params: of the model; kept as they are.
      config: its configuration.
      edits: at least one, of one row each and all of one shape.
      layer: whose MLP is wrapped.
      settings: see `GRACESettings`.

    Returns:
      A codebook with room for as many entries as there are edits.

    Raises:
      InputError: the model has no such layer.
    """
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
                # A little more than the gap, which another batch may round otherwise.
                wider = codebook.radii.at[nearest].max(1.001 * gap)
                codebook = dataclasses.replace(codebook, radii=wider)
                continue
            radius = gap / 2
            narrower = codebook.radii.at[nearest].set(radius)
            codebook = dataclasses.replace(codebook, radii=narrower)
        value = _value(params, config, rows, output, layer, settings)
        entry = len(labels)
        codebook = Codebook(
            codebook.keys.at[entry].set(key),
            codebook.values.at[entry].set(value),
            codebook.radii.at[entry].set(radius),
        )
        labels.append(label)
    return codebook


@partial(jax.jit, static_argnames=("config", "layer", "settings"))
def _value(
    params: Params,
    config: ModelConfig,
    rows: Rows,
    output: jax.Array,
    layer: int,
    settings: GRACESettings,
) -> jax.Array:
    """The value [D] that, in place of the layer's output [D], makes the target follow."""
    here = jax.nn.one_hot(rows.columns[:, 0], rows.tokens.shape[1], dtype=bool)[:, :, None]
    optimizer = optax.adam(settings.learning_rate)

    def objective(value: jax.Array) -> jax.Array:
        def change(key: jax.Array, output: jax.Array) -> jax.Array:
            return jnp.where(here, value.astype(output.dtype), output)

        seen = observe(params, config, rows.tokens, rows.positions, layer, change)
        return target_loss(params, config, seen.states, rows)

    def step(carry: tuple[jax.Array, Any], _: None) -> tuple[tuple[jax.Array, Any], None]:
        value, state = carry
        updates, state = optimizer.update(jax.grad(objective)(value), state)
        return (optax.apply_updates(value, updates), state), None

    start = output.astype(jnp.float32)
    (value, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=settings.steps)
    return value
