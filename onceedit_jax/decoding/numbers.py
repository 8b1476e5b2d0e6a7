"""States and probabilities that are numbers: a run with any others ends here, by name."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from onceedit_jax.decoding.greedy import Continuation
from onceedit_jax.distributed.bucketing import pad_rows, row_positions
from onceedit_jax.distributed.mesh import to_host
from onceedit_jax.errors import RunError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states
from onceedit_jax.models.layout import lower_part


def check_states(
    states: Float[np.ndarray, "rows ... hidden"],
    params: Any,
    config: ModelConfig,
    tokens: Sequence[int],
) -> None:
    """Refuse states that are not finite.

    Args:
      states: what the model computed.
      params: the model's parameters.
      config: its configuration.
      tokens: a text that it read, to find the layer with.

    Raises:
      RunError: naming the first layer whose output is not finite.
    """
    if not np.isfinite(states).all():
        raise not_finite(params, config, tokens)


def check_written(
    written: Continuation, params: Any, config: ModelConfig, texts: Sequence[Sequence[int]]
) -> None:
    """Refuse answers that were chosen by logits which are not finite.

    Args:
      written: the answers.
      params: the parameters of the model that chose them.
      config: its configuration.
      texts: what it read.

    Raises:
      RunError: naming the first layer whose output is not finite.
    """
    lengths = to_host(written.length) + to_host(written.stopped)
    probabilities = to_host(written.probabilities)
    counted = np.arange(probabilities.shape[1]) < lengths[:, None]
    wrong = (~np.isfinite(probabilities) & counted).any(axis=1)
    if wrong.any():
        raise not_finite(params, config, texts[min(int(wrong.argmax()), len(texts) - 1)])


def not_finite(params: Any, config: ModelConfig, tokens: Sequence[int]) -> RunError:
    """The error for a model whose states or logits are not numbers, with the layer at fault."""
    first, last = 1, config.num_layers + 1
    while first < last:  # layers below `first` are sound, and what comes after `last` is not
        middle = (first + last) // 2
        if _is_sound(params, config, tokens, middle):
            first = middle + 1
        else:
            last = middle
    where = f"after layer {first} of {config.num_layers}"
    if first > config.num_layers:
        where = "in the logits or an adapter"
    size = f"{config.family} of {config.num_layers} layers and {config.vocab_size} tokens"
    return RunError(
        f"the {size}: values {where} are not finite, on a text of {len(tokens)} tokens; its "
        "weights are damaged or too large for the dtype: fetch it again, or use float32"
    )


def _is_sound(params: Any, config: ModelConfig, tokens: Sequence[int], layers: int) -> bool:
    # Adapters begin somewhere above: what is left are the layers that they are added to.
    weights = {name: part for name, part in params.items() if name != "adapters"}
    lower, small = lower_part(weights, config, layers)
    width = len(tokens)
    text = pad_rows([list(tokens)], width=width)
    positions = row_positions([width], width=width)
    states = jax.jit(hidden_states, static_argnums=1)(lower, small, text, positions)[0]
    return bool(np.isfinite(to_host(states)).all())
