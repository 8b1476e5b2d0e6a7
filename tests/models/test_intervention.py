"""A pass that is read, or changed, at one layer, and a layer that stands alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from baseline_cases import reading, running
from support import tiny_config

from onceedit_jax.distributed.bucketing import row_positions
from onceedit_jax.editors.layers import down_projection, with_down_projection
from onceedit_jax.errors import InputError
from onceedit_jax.models.intervention import isolate_layer
from onceedit_jax.models.layout import stack_layers
from onceedit_jax.models.parameters import init_params


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 3, "sliding_layers": (True, False, True), "sliding_window": 3},
        {"post_norms": True, "qk_norm": True, "norm_offset": 1.0},
        {"parallel_block": True, "gated_mlp": False, "mlp_bias": True, "norm": "layer"},
        {"rope": None},
    ],
)
def test_a_pass_that_changes_nothing_is_the_decoders(changes):
    config = tiny_config(50, **changes)
    params = init_params(config, jax.random.key(0))
    # Biases begin at zero, which would hide one that is left out.
    params = jax.tree.map(lambda a: a + 0.01, params)
    tokens = jnp.arange(16).reshape(2, 8)
    positions = row_positions([8, 5], width=8)
    wanted = running(params, config, tokens, positions)[0]
    mlp = jax.tree.map(np.asarray, params["layers"]["mlp"])
    for layer in range(config.num_layers):
        seen = reading(params, config, tokens, positions, layer)
        np.testing.assert_allclose(seen.states, wanted, rtol=1e-5, atol=1e-5)
        written = np.asarray(seen.key, np.float64) @ mlp["down"][layer]
        written += mlp["down_bias"][layer] if config.mlp_bias else 0
        np.testing.assert_allclose(seen.output, written, rtol=1e-5, atol=1e-5)


def test_a_change_reaches_its_layer_and_those_above_and_no_earlier_token():
    config = tiny_config(50, num_layers=3)
    params = init_params(config, jax.random.key(0))
    tokens, positions = jnp.arange(6)[None], jnp.arange(6)[None]
    delta = jnp.zeros((1, 6, 32)).at[0, 3].set(1.0)

    def run(change):
        return reading(params, config, tokens, positions, 1, change)

    plain, changed = run(lambda key, out: out), run(lambda key, out: out + delta)
    np.testing.assert_array_equal(changed.key, plain.key)
    np.testing.assert_array_equal(changed.output, plain.output)
    np.testing.assert_allclose(changed.stream - plain.stream, delta, atol=1e-6)
    np.testing.assert_array_equal(changed.states[:, :3], plain.states[:, :3])
    assert np.all(np.any(changed.states[:, 3:] != plain.states[:, 3:], axis=-1))


def test_a_layer_alone_in_its_group_is_the_same_model():
    config = tiny_config(50, num_layers=3)
    params = init_params(config, jax.random.key(0))
    for layer in range(3):
        isolated = isolate_layer(params, layer)
        assert isolate_layer(isolated, layer) is isolated
        jax.tree.map(np.testing.assert_array_equal, stack_layers(isolated), params)
        down = down_projection(params, layer)
        np.testing.assert_array_equal(down, params["layers"]["mlp"]["down"][layer])
        other = stack_layers(with_down_projection(params, layer, down + 1))["layers"]["mlp"]["down"]
        moved = np.any(other != params["layers"]["mlp"]["down"], axis=(1, 2))
        assert moved.tolist() == [i == layer for i in range(3)]
    with pytest.raises(InputError, match="layer 3 does not exist"):
        isolate_layer(params, 3)
