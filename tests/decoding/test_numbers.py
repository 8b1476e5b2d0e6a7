"""States that are no numbers end a run, and the error names the model and the layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import tiny_config

from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation
from onceedit_jax.decoding.numbers import check_written
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.errors import RunError
from onceedit_jax.models.parameters import init_params


@pytest.fixture
def model():
    config = tiny_config(20, num_layers=3)
    return init_params(config, jax.random.key(0)), config


def overflowing(params, layer):
    """Finite weights whose products are not."""
    up = params["layers"]["mlp"]["up"]
    down = params["layers"]["mlp"]["down"]
    mlp = {
        **params["layers"]["mlp"],
        "up": up.at[layer].set(1e30),
        "down": down.at[layer].set(1e30),
    }
    return {**params, "layers": {**params["layers"], "mlp": mlp}}


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_is_named(model, layer):
    params, config = model
    assert np.isfinite(states_after(params, config, [[1, 2, 3]])).all()
    message = (
        rf"llama of 3 layers and 20 tokens: values after layer {layer + 1} of 3 are not finite"
    )
    with pytest.raises(RunError, match=message):
        states_after(overflowing(params, layer), config, [[1, 2, 3], [4]])


def test_logits_are_named_too(model):
    params, config = model
    params = {
        **params,
        "final_norm": {"scale": params["final_norm"]["scale"] * 1e30},
        "embed": {"tokens": params["embed"]["tokens"] * 1e12},
    }
    with pytest.raises(
        RunError, match="values in the logits or an adapter are not finite, on a text of 2"
    ):
        written = greedy_continuation(
            params, config, jnp.array([[1, 2]]), jnp.array([[0, 1]]), no_stops(20), steps=2
        )
        check_written(written, params, config, [[1, 2]])


def no_stops(size):
    return StopTokens(*[jnp.zeros(size, bool)] * 3)


def test_sound_answers_pass(model):
    params, config = model
    written = greedy_continuation(
        params, config, jnp.array([[1, 2]]), jnp.array([[0, 1]]), no_stops(20), steps=2
    )
    check_written(written, params, config, [[1, 2]])
