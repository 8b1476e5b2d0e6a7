"""Layers in groups: the same numbers in any layout, and on one CPU the same memory."""

import jax
import numpy as np
import pytest
from support import tiny_config

from onceedit_jax.models import layout
from onceedit_jax.models.layout import (
    group_size,
    lower_part,
    repays_unrolling,
    split_layers,
    stack_layers,
    unstack_layers,
    unstack_upper,
)
from onceedit_jax.models.parameters import init_params

CONFIG = tiny_config(64, num_layers=5, hidden_size=64)
PARAMS = init_params(CONFIG, jax.random.key(0))


def equal(one, other):
    """Whether two trees hold the same numbers."""
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1), (4, 1)])
def test_groups_hold_the_layers_and_give_them_back(sizes):
    groups = split_layers(PARAMS, sizes)["layers"]
    ends = np.cumsum(sizes)
    for group, size, end in zip(groups, sizes, ends, strict=True):
        assert equal(group, jax.tree.map(lambda x, a=end - size, b=end: x[a:b], PARAMS["layers"]))
    assert equal(stack_layers({**PARAMS, "layers": groups}), PARAMS)


@pytest.mark.parametrize("sizes", [(5,), (2, 3), (1, 1, 1, 1, 1)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_lower_part_is_the_same_of_any_layout(sizes, count):
    lower, config = lower_part(split_layers(PARAMS, sizes), CONFIG, count)
    assert config.num_layers == count and "head" not in lower
    assert equal(lower["layers"], jax.tree.map(lambda x: x[:count], PARAMS["layers"]))


@pytest.mark.parametrize(("sizes", "count"), [((2, 3), 2), ((5,), 0), ((1, 1, 3), 2)])
def test_upper_layers_are_unstacked_and_the_lower_ones_left(sizes, count):
    unstacked = unstack_upper(split_layers(PARAMS, sizes), count)
    assert [group_size(g) for g in unstacked["layers"]][-(5 - count) :] == [1] * (5 - count)
    assert equal(stack_layers(unstacked), PARAMS)


def test_upper_layers_that_begin_inside_a_group_are_refused():
    with pytest.raises(ValueError, match="layer 3 is inside a group"):
        unstack_upper(split_layers(PARAMS, (2, 3)), 3)


def test_on_one_cpu_groups_share_the_memory_of_the_whole():
    whole = PARAMS["layers"]["mlp"]["up"]
    first, size = whole.unsafe_buffer_pointer(), whole.nbytes // 5
    for i, group in enumerate(unstack_layers(PARAMS)["layers"]):
        assert group["mlp"]["up"].unsafe_buffer_pointer() == first + i * size


def test_a_donated_group_leaves_the_others_as_they_are():
    params = jax.tree.map(lambda x: x + 0, PARAMS)
    lower, upper = split_layers(params, (2, 3))["layers"]
    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    assert equal(double(upper), jax.tree.map(lambda x: 2 * x[2:], PARAMS["layers"]))
    assert equal(lower, jax.tree.map(lambda x: x[:2], PARAMS["layers"]))
    assert equal(params, PARAMS)


def test_a_whole_that_is_donated_leaves_its_groups_as_they_are():
    params = jax.tree.map(lambda x: x + 0, PARAMS)
    groups = split_layers(params, (2, 3))["layers"]
    lower, _ = lower_part(params, CONFIG, 2)
    double = jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)
    assert equal(double(params["layers"]), jax.tree.map(lambda x: 2 * x, PARAMS["layers"]))
    for group, part in zip((*groups, lower["layers"]), ((0, 2), (2, 5), (0, 2)), strict=True):
        expected = jax.tree.map(lambda x, part=part: x[slice(*part)], PARAMS["layers"])
        assert equal(group, expected)


def test_on_one_cpu_a_lower_part_shares_the_memory_of_the_whole():
    up = lower_part(PARAMS, CONFIG, 2)[0]["layers"]["mlp"]["up"]
    whole = PARAMS["layers"]["mlp"]["up"]
    assert up.unsafe_buffer_pointer() == whole.unsafe_buffer_pointer()


def test_layers_are_split_inside_a_compiled_function():
    split = jax.jit(lambda params: split_layers(params, (2, 3)))(PARAMS)
    assert equal(split, split_layers(PARAMS, (2, 3)))


@pytest.mark.parametrize(
    ("platform", "dtype", "steps", "free", "repays"),
    [
        ("cpu", "float32", 1e9, 0, True),
        ("cpu", "float32", 10, 0, False),
        ("cpu", "bfloat16", 1e9, 0, False),  # the compiler keeps wide copies
        ("gpu", "bfloat16", 1e9, 1e9, True),
        ("gpu", "bfloat16", 1e6, 1e9, False),  # a GPU copies a hundred times as fast
        ("gpu", "bfloat16", 1e9, 1e5, False),  # no room for both layouts
        ("tpu", "bfloat16", 1e9, 1e9, False),  # not measured
    ],
)
def test_unrolling_repays_by_the_platforms_copies(
    platform, dtype, steps, free, repays, monkeypatch
):
    monkeypatch.setattr(layout, "platform_of", lambda tree: platform)
    monkeypatch.setattr(layout, "free_memory", lambda counted: free)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    assert repays_unrolling(params, int(steps)) == repays


@pytest.mark.parametrize(
    ("counted", "free"),
    [(None, float("inf")), ({"bytes_in_use": 3}, float("inf")),
     ({"bytes_limit": 10, "bytes_in_use": 3}, 7)],
)  # fmt: skip
def test_free_memory_is_what_a_device_counts(counted, free):
    assert layout.free_memory(counted) == free
