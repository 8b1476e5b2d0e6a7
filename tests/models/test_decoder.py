"""What must hold of the decoder whatever the weights: causality, padding, caching, masking."""

import dataclasses
import json
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceedit_jax.errors import InputError
from onceedit_jax.models.cache import init_cache, padded_positions, rollback
from onceedit_jax.models.config import ModelConfig, Rope
from onceedit_jax.models.decoder import forward, hidden_states, unembed
from onceedit_jax.models.layers import NEG_INF
from onceedit_jax.models.layout import split_layers, stack_layers, unstack_layers
from onceedit_jax.models.parameters import init_params, input_embeddings, param_shapes
from onceedit_jax.models.rope import inverse_frequencies, rotate, rotation_at

# Local and global layers mixed, grouped heads, two ropes: most of what a config can ask for.
CONFIG = ModelConfig(
    family="gemma3_text",
    vocab_size=24,
    num_tokens=21,
    hidden_size=16,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    mlp_size=20,
    max_positions=32,
    rope=Rope(theta=1e4, dim=8, local_theta=100.0),
    qk_norm=True,
    sliding_window=4,
    sliding_layers=(True, True, False),
    tie_embeddings=True,
)
PARAMS = init_params(CONFIG, jax.random.key(0))
LENGTH = 9
TOKENS = np.random.default_rng(0).integers(0, 21, (2, LENGTH)).astype(np.int32)
POSITIONS = np.tile(np.arange(LENGTH, dtype=np.int32), (2, 1))

run = jax.jit(forward, static_argnums=1)


def test_texts_that_share_a_row_are_read_as_if_each_were_alone():
    """Sliding layers included: distance counts within a segment."""
    lengths = (7, 2, 6)
    tokens = np.random.default_rng(1).integers(0, 21, (1, 16)).astype(np.int32)
    positions, segments = np.full((2, 1, 16), -1, np.int32)
    first, alone = 0, []
    for i, length in enumerate(lengths):
        span = slice(first, first + length)
        positions[0, span], segments[0, span] = np.arange(length), i
        alone.append(hidden_states(PARAMS, CONFIG, tokens[:, span], positions[:, span])[0][0])
        first += length
    packed = hidden_states(PARAMS, CONFIG, tokens, positions, segments=segments)[0][0]
    np.testing.assert_allclose(packed[:first], np.concatenate(alone), atol=2e-5)


@pytest.fixture(scope="module")
def logits():
    return np.asarray(run(PARAMS, CONFIG, TOKENS, POSITIONS)[0])


def close(actual, wanted):
    np.testing.assert_allclose(actual, wanted, atol=2e-5, rtol=0)


def test_a_token_changes_nothing_before_it_and_something_from_it_on(logits):
    changed = TOKENS.copy()
    changed[:, 5] = (changed[:, 5] + 1) % 21
    other = np.asarray(run(PARAMS, CONFIG, changed, POSITIONS)[0])
    np.testing.assert_array_equal(other[:, :5], logits[:, :5])
    assert (np.abs(other[:, 5:] - logits[:, 5:]).max(-1) > 1e-4).all()


def test_a_token_outside_every_sliding_window_is_out_of_sight():
    config = dataclasses.replace(CONFIG, sliding_layers=(True, True, True))
    changed = TOKENS.copy()
    changed[:, 0] = (changed[:, 0] + 1) % 21
    difference = np.abs(
        run(PARAMS, config, changed, POSITIONS)[0] - run(PARAMS, config, TOKENS, POSITIONS)[0]
    ).max(-1)
    # One layer sees 3 tokens back, but three layers see 9: only a single layer cuts off.
    assert (difference[:, :LENGTH] > 1e-6).all()
    one = dataclasses.replace(config, num_layers=1, sliding_layers=(True,))
    single = {**PARAMS, "layers": split_layers(PARAMS, (1, 2))["layers"][0]}
    difference = np.abs(
        run(single, one, changed, POSITIONS)[0] - run(single, one, TOKENS, POSITIONS)[0]
    ).max(-1)
    assert (difference[:, :4] > 1e-6).all()
    assert (difference[:, 4:] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_real_column(logits, side):
    lengths = np.array([LENGTH, 6])
    width = LENGTH + 3
    positions = np.asarray(padded_positions(lengths, width, side))
    tokens = np.full((2, width), 7, np.int32)
    for row, length in enumerate(lengths):
        tokens[row, positions[row] >= 0] = TOKENS[row, :length]
    padded = np.asarray(run(PARAMS, CONFIG, tokens, positions)[0])
    assert np.isfinite(padded).all()
    for row, length in enumerate(lengths):
        close(padded[row, positions[row] >= 0], logits[row, :length])


def test_padded_positions_count_from_the_first_real_token():
    left = padded_positions(np.array([3, 1]), 4, "left")
    right = padded_positions(np.array([3, 0]), 4, "right")
    assert left.tolist() == [[-1, 0, 1, 2], [-1, -1, -1, 0]]
    assert right.tolist() == [[0, 1, 2, -1], [-1, -1, -1, -1]]
    with pytest.raises(ValueError, match="middle"):
        padded_positions(np.array([3]), 4, "middle")


@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.sampled_from([1, 4, 5, 8])), padding=st.integers(0, 1))
def test_however_a_text_is_cut_the_cache_gives_the_uncut_logits(logits, cuts, padding):
    """Every part may bring `padding` columns of its own, which waste a slot and nothing else."""
    cache = init_cache(CONFIG, 2, 16)
    edges = [0, *sorted(cuts), LENGTH]
    parts = []
    for start, stop in pairwise(edges):
        pad = ((0, 0), (0, padding))
        tokens = np.pad(TOKENS[:, start:stop], pad)
        positions = np.pad(POSITIONS[:, start:stop], pad, constant_values=-1)
        part, cache = run(PARAMS, CONFIG, tokens, positions, cache)
        parts.append(part[:, : stop - start])
    close(jnp.concatenate(parts, axis=1), logits)
    assert int(cache["length"]) == LENGTH + padding * len(parts)


def test_rollback_forgets_from_a_position_on_row_by_row(logits):
    keep = jnp.array([4, 2], jnp.int32)
    _, cache = run(PARAMS, CONFIG, TOKENS, POSITIONS, init_cache(CONFIG, 2, 20))
    cache = rollback(cache, keep)
    assert cache["positions"].max(-1).tolist() == [3, 1]
    positions = np.asarray(keep)[:, None] + np.arange(5, dtype=np.int32)
    tokens = np.take_along_axis(TOKENS, positions, axis=1)
    again, _ = run(PARAMS, CONFIG, tokens, positions, cache)
    close(again, np.take_along_axis(logits, positions[..., None], axis=1))


def test_a_cache_of_another_dtype_is_kept_in_it():
    cache = init_cache(CONFIG, 2, LENGTH, jnp.bfloat16)
    _, cache = run(PARAMS, CONFIG, TOKENS, POSITIONS, cache)
    assert cache["keys"].dtype == cache["values"].dtype == jnp.bfloat16


@pytest.mark.parametrize("sizes", [(1, 2), (2, 1), (1, 1, 1), (3,)])
def test_split_layers_compute_the_same_and_stack_back_to_the_same_tree(logits, sizes):
    split = split_layers(PARAMS, sizes)
    assert len(split["layers"]) == len(sizes)
    close(run(split, CONFIG, TOKENS, POSITIONS)[0], logits)
    jax.tree.map(np.testing.assert_array_equal, stack_layers(split), PARAMS)


def test_unstacked_layers_can_be_split_anew_and_wrong_sizes_are_refused():
    again = split_layers(unstack_layers(PARAMS), (2, 1))
    jax.tree.map(np.testing.assert_array_equal, stack_layers(again), PARAMS)
    for sizes in ((2, 2), (0, 3), ()):
        with pytest.raises(ValueError, match="3 layers"):
            split_layers(PARAMS, sizes)


def test_rows_that_are_no_token_get_no_mass(logits):
    assert (logits[..., 21:] == NEG_INF).all()
    probabilities = jax.nn.softmax(logits, axis=-1)
    assert (probabilities[..., 21:] == 0.0).all()
    whole = CONFIG.with_num_tokens(24)
    close(run(PARAMS, whole, TOKENS, POSITIONS)[0][..., :21], logits[..., :21])


def test_forward_is_hidden_states_then_unembed(logits):
    hidden, cache = hidden_states(PARAMS, CONFIG, TOKENS, POSITIONS)
    assert cache is None
    assert hidden.shape == (2, LENGTH, 16)
    close(unembed(PARAMS, CONFIG, hidden), logits)
    close(unembed(PARAMS, CONFIG, hidden[:, -1]), logits[:, -1])


def test_gradients_reach_every_parameter_and_are_finite_under_padding():
    params = {**PARAMS, "layers": split_layers(PARAMS, (1, 2))["layers"]}
    positions = padded_positions(np.array([LENGTH, 4]), LENGTH, "left")

    def loss(params):
        logits, _ = forward(params, CONFIG, TOKENS, positions)
        answer = jax.nn.log_softmax(logits)[..., 3]
        return -jnp.where(positions >= 0, answer, 0.0).sum()

    gradients = jax.jit(jax.grad(loss))(params)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert jnp.isfinite(gradient).all(), path
        assert jnp.abs(gradient).max() > 0, path


def test_equal_configs_and_equal_shapes_share_one_compilation():
    traces = []

    def counted(params, config, tokens, positions, cache=None):
        traces.append(tokens.shape)
        return forward(params, config, tokens, positions, cache)

    compiled = jax.jit(counted, static_argnums=1, donate_argnums=4)
    compiled(PARAMS, CONFIG, TOKENS, POSITIONS)
    compiled(PARAMS, dataclasses.replace(CONFIG), TOKENS[::-1], POSITIONS)
    assert len(traces) == 1
    cache = init_cache(CONFIG, 2, LENGTH)
    for step in range(4):
        columns = slice(step, step + 1)
        _, cache = compiled(PARAMS, CONFIG, TOKENS[:, columns], POSITIONS[:, columns], cache)
    assert len(traces) == 2


def test_bfloat16_compute_stays_near_float32_and_returns_float32_logits(logits):
    rough, _ = run(PARAMS, CONFIG.with_compute_dtype("bfloat16"), TOKENS, POSITIONS)
    assert rough.dtype == jnp.float32
    real = logits[..., :21]
    error = np.abs(np.asarray(rough)[..., :21] - real).max() / (real.max() - real.min())
    assert 0 < error < 0.05


def test_parameters_are_of_the_named_dtype_and_shapes_allocate_nothing():
    shapes = param_shapes(CONFIG, jnp.bfloat16)
    params = init_params(CONFIG, jax.random.key(1), jnp.bfloat16)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), shapes, params)
    assert all(jax.tree.leaves(same))
    assert all(a.dtype == jnp.bfloat16 for a in jax.tree.leaves(params))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    assert input_embeddings(params).shape == (24, 16)


@given(shift=st.integers(0, 50), interleaved=st.booleans())
@settings(max_examples=20, deadline=None)
def test_rope_makes_scores_depend_on_distance_alone(shift, interleaved):
    rope = Rope(theta=100.0, dim=4, interleaved=interleaved)
    query, key = jax.random.normal(jax.random.key(2), (2, 1, 1, 1, 6))

    def score(query_position, key_position):
        turns = [rotation_at(jnp.array([[p]]), rope) for p in (query_position, key_position)]
        turned = rotate(query, turns[0], interleaved=interleaved)
        return (turned * rotate(key, turns[1], interleaved=interleaved)).sum()

    np.testing.assert_allclose(score(shift + 7, shift + 3), score(7, 3), atol=2e-5)


def test_llama3_scaling_keeps_fast_turns_and_stretches_slow_ones():
    plain = Rope(theta=1e6, dim=32)
    scaled = dataclasses.replace(plain, scaling="llama3", factor=8.0, original_max_positions=1024)
    ratio = inverse_frequencies(plain) / inverse_frequencies(scaled)
    turns = 1024 * inverse_frequencies(plain) / (2 * np.pi)
    np.testing.assert_allclose(ratio[turns >= 4], 1.0, rtol=1e-6)
    np.testing.assert_allclose(ratio[turns <= 1], 8.0, rtol=1e-6)
    between = (turns > 1) & (turns < 4)
    assert between.any()
    assert ((ratio[between] > 1) & (ratio[between] < 8)).all()


def test_a_config_survives_json():
    assert ModelConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    learned = dataclasses.replace(CONFIG, rope=None)
    assert ModelConfig.from_dict(json.loads(json.dumps(learned.to_dict()))) == learned


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tokens": 25}, "25 tokens"),
        ({"num_kv_heads": 3}, "3 key/value heads"),
        ({"sliding_layers": (True,)}, "3 layers"),
        ({"sliding_window": None}, "sliding_window None"),
        ({"rope": Rope(theta=1e4, dim=10)}, "rotary dimension 10"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **change)
