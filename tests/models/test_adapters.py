"""Adapters against weights with their factors added, and rows that have adapters of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny_config

from onceedit_jax.models.adapters import (
    NO_ADAPTER,
    adapted,
    adapted_layers,
    init_adapter,
    joined,
    merged,
    number_of_adapters,
    split_for,
)
from onceedit_jax.models.decoder import forward, init_cache, unstack_layers
from onceedit_jax.models.parameters import init_params

CONFIG = tiny_config(40)
PARAMS = init_params(CONFIG, jax.random.key(0))


def random_adapter(seed, *, layers=1, rank=2, params=PARAMS):
    """An adapter that changes the model's answers."""
    adapter = init_adapter(params, layers, rank, jax.random.key(seed))
    leaves, tree = jax.tree.flatten(adapter)
    keys = jax.random.split(jax.random.key(seed + 100), len(leaves))
    noise = [jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, noise)


def batch(rows, length=6, seed=0):
    tokens = np.random.default_rng(seed).integers(0, 40, (rows, length)).astype(np.int32)
    return tokens, np.tile(np.arange(length, dtype=np.int32), (rows, 1))


def logits(params, rows=3):
    return np.asarray(forward(params, CONFIG, *batch(rows))[0])


def test_a_new_adapter_changes_nothing():
    params = {**split_for(PARAMS, 1), "adapters": init_adapter(PARAMS, 1, 2, jax.random.key(0))}
    np.testing.assert_array_equal(logits(params), logits(split_for(PARAMS, 1)))


@pytest.mark.parametrize("layers", [1, 2])
def test_an_adapter_gives_what_the_changed_weights_give(layers):
    adapter = random_adapter(1, layers=layers)
    found = logits({**split_for(PARAMS, layers), "adapters": adapter})
    wanted = logits(merged(PARAMS, adapter, 0))
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert np.abs(found - logits(PARAMS)).max() > 0.1


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-1, 2), min_size=3, max_size=3))
def test_every_row_has_its_own_adapter(chosen):
    adapters = joined([random_adapter(seed) for seed in range(3)])
    params = split_for(PARAMS, 1)
    together = logits(adapted(params, adapters, np.array(chosen)))
    for row, own in enumerate(chosen):
        alone = logits(adapted(params, adapters, np.array([own])))[row]
        np.testing.assert_allclose(together[row], alone, atol=1e-4)
        if own == NO_ADAPTER:
            np.testing.assert_allclose(together[row], logits(PARAMS)[row], atol=1e-4)


def test_other_adapters_that_come_do_not_change_a_row_and_compile_nothing():
    params, one = split_for(PARAMS, 1), joined([random_adapter(0), random_adapter(1)])
    more = joined([one, random_adapter(2)])
    run = jax.jit(lambda params: forward(params, CONFIG, *batch(3))[0])
    chosen = np.array([0, 1, 0])
    before = run(adapted(params, one, chosen))
    np.testing.assert_array_equal(before, run(adapted(params, more, chosen)))
    assert run._cache_size() == 1


def test_adapters_of_other_ranks_and_layers_are_joined():
    small, large = random_adapter(0, rank=2), random_adapter(1, layers=2, rank=3)
    both = joined([small, large])
    assert (number_of_adapters(both), adapted_layers(both)) == (2, 2)
    params = split_for(PARAMS, 2)
    for number, (adapter, layers) in enumerate([(small, 1), (large, 2)]):
        alone = logits({**split_for(PARAMS, layers), "adapters": adapter})
        np.testing.assert_allclose(
            logits(adapted(params, both, np.array([number]))), alone, atol=1e-4
        )


def test_an_adapter_works_with_a_cache_and_with_unstacked_layers():
    adapter = random_adapter(0)
    params = {**split_for(PARAMS, 1), "adapters": adapter}
    tokens, positions = batch(3)
    whole = logits(params)
    unrolled = {**unstack_layers(PARAMS), "adapters": adapter}
    np.testing.assert_allclose(logits(unrolled), whole, atol=1e-4)
    cache = init_cache(CONFIG, 3, 8)
    first, cache = forward(params, CONFIG, tokens[:, :4], positions[:, :4], cache)
    rest, _ = forward(params, CONFIG, tokens[:, 4:], positions[:, 4:], cache)
    np.testing.assert_allclose(jnp.concatenate([first, rest], axis=1), whole, atol=1e-4)


def test_layers_that_are_not_split_where_adapters_begin_are_refused():
    with pytest.raises(ValueError, match="layers 0 to 1 are one group, and adapters begin at"):
        logits({**PARAMS, "adapters": random_adapter(0)})


@pytest.mark.parametrize(
    "options", [{"qkv_bias": True}, {"parallel_block": True, "gated_mlp": False}]
)
def test_adapters_fit_other_architectures(options):
    config = tiny_config(40, **options)
    params = init_params(config, jax.random.key(0))
    adapter = random_adapter(3, params=params)
    found, _ = forward({**split_for(params, 1), "adapters": adapter}, config, *batch(2))
    wanted, _ = forward(merged(params, adapter, 0), config, *batch(2))
    np.testing.assert_allclose(found, wanted, atol=5e-3)
