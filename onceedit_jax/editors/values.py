"""The value that makes a model give an answer: ROME's v* and MEMIT's z, by gradient descent."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from onceedit_jax.checks import check_settings
from onceedit_jax.editors.layers import Edit, Rows, at, target_loss
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import unembed
from onceedit_jax.models.intervention import Observed, observe
from onceedit_jax.types import Params


@dataclasses.dataclass(frozen=True)
class ValueSettings:
    """How the change of a value is found.

    Weight decay and clamp are in the papers' code only, where they act on the layer's output. Here
    both act on the output of the MLP, which is one part of it: so the clamp is wider. The decay is
    small, because a larger one keeps the descent from reaching `enough`.

    Attributes:
      steps: most steps of Adam.
      learning_rate: of Adam.
      enough: an objective below this ends the descent.
      kl_weight: of the divergence at the essence prompt; 0 leaves it out.
      weight_decay: of the change's squared norm, relative to the value's.
      clamp: largest norm of the change, relative to the value's.
    """

    steps: int = 20
    learning_rate: float = 0.5
    enough: float = 0.05
    kl_weight: float = 0.0625
    weight_decay: float = 0.001
    clamp: float = 4.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot find a value.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(
            self,
            above_zero=["steps", "learning_rate", "clamp"],
            not_negative=["enough", "kl_weight", "weight_decay"],
        )


@partial(jax.jit, static_argnames=("config", "layer", "settings"))
def value_change(
    params: Params, config: ModelConfig, edit: Edit, layer: int, settings: ValueSettings
) -> Float[Array, "D"]:
    """The change of the MLP's output at the subject's last token that makes the answer follow.

    Minimises the mean over the prompts of -log p(answer | prompt), plus D_KL(p' || p) of the next
    token after the essence prompt, p' with the change and p without it (ROME, arXiv 2202.05262,
    equation 4; MEMIT, arXiv 2210.07229, equation 16, has the first term, its code both), plus a
    weight decay, which is in no equation. The change is the same after every prefix, whatever the
    value there.

    Args:
      params: the model's, its layers in any layout.
      config: its configuration.
      edit: its first prompt is the edit's own.
      layer: whose MLP output is changed.
      settings: see `ValueSettings`.
    """
    objective, longest = _objective(params, config, edit, layer, settings)
    optimizer, measured = optax.adam(settings.learning_rate), jax.value_and_grad(objective)
    nothing = jnp.zeros(config.hidden_size, jnp.float32)

    def unfinished(carry: _Descent) -> jax.Array:
        return (carry.step < settings.steps) & (carry.loss >= settings.enough)

    def descend(carry: _Descent) -> _Descent:
        updates, state = optimizer.update(carry.gradient, carry.state)
        delta = optax.apply_updates(carry.delta, updates)
        delta *= jnp.minimum(1, longest / jnp.linalg.norm(delta))
        return _Descent(carry.step + 1, delta, state, *measured(delta))

    start = _Descent(jnp.asarray(0), nothing, optimizer.init(nothing), *measured(nothing))
    return jax.lax.while_loop(unfinished, descend, start).delta


def _objective(
    params: Params, config: ModelConfig, edit: Edit, layer: int, settings: ValueSettings
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
    """What is minimised, as a function of the change [D], and the longest norm of the change."""

    def run(rows: Rows, subject: jax.Array, delta: jax.Array) -> Observed:
        there = jax.nn.one_hot(subject, rows.tokens.shape[1])[:, :, None]

        def change(key: jax.Array, output: jax.Array) -> jax.Array:
            return output + (there * delta).astype(output.dtype)

        return observe(params, config, rows.tokens, rows.positions, layer, change)

    def next_token(delta: jax.Array) -> jax.Array:
        states = run(edit.essence, edit.essence_subject, delta).states
        last = at(jnp.argmax(edit.essence.positions, axis=1), states)
        return jax.nn.log_softmax(unembed(params, config, last))

    nothing = jnp.zeros(config.hidden_size, jnp.float32)
    value = at(edit.subject, run(edit.prompts, edit.subject, nothing).output)[0]
    norm = jnp.linalg.norm(value.astype(jnp.float32))
    before = next_token(nothing) if settings.kl_weight else None

    def objective(delta: jax.Array) -> jax.Array:
        states = run(edit.prompts, edit.subject, delta).states
        loss = target_loss(params, config, states, edit.prompts)
        if before is not None:
            after = next_token(delta)
            loss += settings.kl_weight * jnp.mean(jnp.sum(jnp.exp(after) * (after - before), -1))
        return loss + settings.weight_decay * jnp.sum(jnp.square(delta / norm))

    return objective, settings.clamp * norm


class _Descent(NamedTuple):
    step: jax.Array
    delta: Float[Array, "D"]
    state: Any  # the optimizer's
    loss: jax.Array  # at delta
    gradient: Float[Array, "D"]  # at delta
