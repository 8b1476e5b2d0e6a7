"""Fusion rules: the formulas, the presets, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax.errors import InputError
from onceedit_jax.fusion.rules import (
    PRESETS,
    FusionInputs,
    FusionSettings,
    Transfer,
    fuse,
    fuse_vocabulary,
    fused_anchor,
    fused_token,
    fusion_rule,
)
from onceedit_jax.fusion.search import SearchSettings
from onceedit_jax.models import argmax
from onceedit_jax.relative.build import build_table
from onceedit_jax.relative.tables import lookup_table

# Anchors are the even tokens of the target and tokens 0, 1, 2, ... of the plug-in.
VS, VL, PADDING, B = 30, 44, 4, 8
ANCHORS = 20
IDS_S, IDS_L = np.arange(ANCHORS), 2 * np.arange(ANCHORS)
TO_TARGET = np.concatenate([IDS_L, np.full(VS - ANCHORS, -1)]).astype(np.int32)


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    plugin, _ = build_table(rng.normal(size=(VS, 12)), IDS_S, kind="dense")
    target, _ = build_table(
        rng.normal(size=(VL, 12)), IDS_L, num_tokens=VL - PADDING, kind="topk", k=8
    )
    return Transfer(plugin, target, lookup_table(target), jnp.asarray(TO_TARGET))


def make_inputs(alpha, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    target = 3 * jax.random.normal(keys[1], (B, VL))
    return FusionInputs(
        3 * jax.random.normal(keys[0], (B, VS)),
        target.at[:, VL - PADDING :].set(-1e30),
        jnp.full(B, alpha, jnp.float32),
    )


def tokens(settings, inputs, pair):
    return np.asarray(jax.jit(fusion_rule(settings))(inputs, pair).tokens)


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("top", [1, 4, 100])
def test_the_fused_anchor_is_the_argmax_of_the_full_sum(sharpness, top):
    """Whether a few tokens settle it (sharp) or the full sum has to (flat)."""
    rng = np.random.default_rng(1)
    tables = [
        build_table(rng.normal(size=(n, 12)), ids, kind="topk", k=8)[0]
        for n, ids in ((VS, IDS_S), (VL - PADDING, IDS_L))
    ]
    logits = [sharpness * rng.normal(size=(B, n)).astype(np.float32) for n in (VS, VL - PADDING)]
    alpha = jnp.linspace(0, 1, B)
    found = jax.jit(fused_anchor, static_argnames="top")(*logits, alpha, *tables, top=top)
    wanted = np.argmax(fuse(*map(jax.nn.softmax, logits), alpha, *tables), axis=-1)
    np.testing.assert_array_equal(found, wanted)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 3.0, 30.0]), st.sampled_from([1, 4, 100]))
def test_the_fused_token_is_the_argmax_of_the_full_sum(seed, sharpness, top):
    """Several plug-in tokens may go to one target token, and some to none."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, 12, VS).astype(np.int32)
    logits = [sharpness * rng.normal(size=(B, n)).astype(np.float32) for n in (VS, VL)]
    alpha = jnp.linspace(0, 1, B)
    found = jax.jit(fused_token, static_argnames="top")(*logits, alpha, ids, top=top)
    scores = np.asarray(fuse_vocabulary(*map(jax.nn.softmax, logits), alpha, jnp.asarray(ids)))
    best = np.take_along_axis(scores, np.asarray(found)[:, None], axis=1)[:, 0]
    # Sums in another order: tokens within rounding of the best are the best.
    np.testing.assert_allclose(best, scores.max(axis=1), rtol=1e-5)


def test_which_tokens_were_looked_at_first_changes_nothing(pair, monkeypatch):
    """Few groups, so that the leaders are not the top tokens; and nothing is ever settled."""
    for alpha in (0.2, 0.8):
        inputs = make_inputs(alpha)
        wanted = np.argmax(
            fuse_vocabulary(
                jax.nn.softmax(inputs.plugin_logits),
                jax.nn.softmax(inputs.target_logits),
                inputs.alpha,
                jnp.asarray(TO_TARGET),
            ),
            axis=-1,
        )
        for groups in (1, 3, 1024):
            monkeypatch.setattr(argmax, "GROUPS", groups)
            arguments = inputs.plugin_logits, inputs.target_logits, inputs.alpha
            np.testing.assert_array_equal(fused_token(*arguments, jnp.asarray(TO_TARGET)), wanted)


def test_a_few_tokens_rows_give_their_share_of_the_relative_sum(pair):
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(VL - PADDING), B).astype(np.float32)
    tokens = np.argsort(-probs, axis=1)[:, :5]
    shares = np.take_along_axis(probs, tokens, 1)
    kept = np.zeros((B, VL), np.float32)
    np.put_along_axis(kept, tokens, shares, 1)
    found = pair.target.to_relative_of(tokens, shares)
    np.testing.assert_allclose(found, pair.target.to_relative(kept), rtol=1e-5, atol=1e-7)


def test_fuse_is_the_weighted_sum_in_the_relative_space(pair):
    plugin, target, *_ = make_inputs(0.0)
    p_s, p_l = jax.nn.softmax(plugin), jax.nn.softmax(target)
    alpha = jnp.linspace(0, 1, B)
    r_s, r_l = (np.asarray(t.to_relative(jnp.eye(n))) for t, n in
                ((pair.plugin, VS), (pair.target, VL)))  # fmt: skip
    expected = alpha[:, None] * (p_s @ r_s) + (1 - alpha[:, None]) * (p_l @ r_l)
    fused = fuse(p_s, p_l, alpha, pair.plugin, pair.target)
    np.testing.assert_allclose(fused, expected, atol=1e-5)
    np.testing.assert_allclose(fused.sum(1), 1.0, atol=1e-4)


def test_fuse_vocabulary_is_the_weighted_sum_in_the_targets_vocabulary():
    plugin, target, *_ = make_inputs(0.0)
    p_s, p_l = jax.nn.softmax(plugin), jax.nn.softmax(target)
    alpha = jnp.linspace(0, 1, B)
    moved = np.zeros((B, VL))
    moved[:, IDS_L] = np.asarray(p_s)[:, :ANCHORS]
    moved /= moved.sum(1, keepdims=True)
    expected = alpha[:, None] * moved + (1 - alpha[:, None]) * p_l
    fused = fuse_vocabulary(p_s, p_l, alpha, jnp.asarray(TO_TARGET))
    np.testing.assert_allclose(fused, expected, atol=1e-6)


@pytest.mark.parametrize("name", ["relative", "vocabulary"])
def test_where_the_gate_is_shut_the_target_speaks_for_itself(name, pair):
    inputs = make_inputs(0.0)
    own = jnp.argmax(inputs.target_logits, axis=1)
    assert (np.asarray(own) % 2 == 1).any()  # some are tokens that are no anchor
    np.testing.assert_array_equal(tokens(PRESETS[name], inputs, pair), own)


def test_the_enhanced_search_alone_loses_a_targets_own_tokens(pair):
    inputs = make_inputs(1e-6)  # almost shut, but not passed through
    own = np.asarray(jnp.argmax(inputs.target_logits, axis=1))
    unshared = own % 2 == 1
    assert unshared.any()
    found = {name: tokens(PRESETS[name], inputs, pair) for name in ("relative", "vocabulary")}
    assert (found["relative"][unshared] != own[unshared]).all()
    np.testing.assert_array_equal(found["vocabulary"], own)


@pytest.mark.parametrize("name", ["relative", "vocabulary"])
def test_where_the_gate_is_open_the_plug_in_speaks_through_the_target(name, pair):
    inputs = make_inputs(1.0)
    sure = jax.nn.one_hot(jnp.arange(B), VS) * 50.0
    inputs = inputs._replace(plugin_logits=sure)
    np.testing.assert_array_equal(tokens(PRESETS[name], inputs, pair), 2 * np.arange(B))


def test_every_row_obeys_its_own_alpha(pair):
    alpha = jnp.asarray([0.0, 1.0] * (B // 2))
    inputs = make_inputs(0.0)._replace(alpha=alpha)
    mixed = tokens(PRESETS["vocabulary"], inputs, pair)
    for value in (0.0, 1.0):
        alone = tokens(PRESETS["vocabulary"], make_inputs(value), pair)
        np.testing.assert_array_equal(mixed[alpha == value], alone[alpha == value])


def test_the_gradient_search_decides_as_the_lookup_does(pair):
    inputs = make_inputs(0.7)
    by_search = dataclasses.replace(PRESETS["relative"], search="gradient")
    step = jax.jit(fusion_rule(by_search))(inputs, pair)
    np.testing.assert_array_equal(step.tokens, tokens(PRESETS["relative"], inputs, pair))
    assert step.losses.shape == (B, SearchSettings().steps + 1)


def test_a_fixed_weight_does_not_listen_to_the_gate(pair):
    fixed = FusionSettings(weight="fixed", fixed_alpha=0.3)
    by_gate = tokens(PRESETS["vocabulary"], make_inputs(0.3), pair)
    for gate in (0.0, 1.0):
        np.testing.assert_array_equal(tokens(fixed, make_inputs(gate), pair), by_gate)


def test_deepen_without_steps_is_the_target_itself(pair):
    still = dataclasses.replace(PRESETS["deepen"], gradient=SearchSettings(steps=0))
    inputs = make_inputs(0.9)
    own = np.asarray(jnp.argmax(inputs.target_logits, axis=1))
    np.testing.assert_array_equal(tokens(still, inputs, pair), own)


def test_deepen_searches_from_the_prior_towards_the_whole_distribution(pair):
    step = jax.jit(fusion_rule(PRESETS["deepen"]))(make_inputs(0.5), pair)
    assert (step.losses[:, -1] < step.losses[:, 0]).all()
    assert (np.asarray(step.tokens) < VL - PADDING).all()


def test_the_presets_are_the_three_published_points():
    deepen, relative, vocabulary = (PRESETS[n] for n in ("deepen", "relative", "vocabulary"))
    assert (deepen.weight, deepen.fixed_alpha, deepen.normalization) == ("fixed", 0.5, "deepen")
    assert (deepen.start, deepen.target, deepen.search) == ("prior", "distribution", "gradient")
    assert (relative.weight, relative.normalization) == ("gate", "centered")
    assert (relative.start, relative.target, relative.search) == ("zeros", "one-hot", "lookup")
    assert (vocabulary.weight, vocabulary.proposal) == ("gate", "vocabulary")
    assert [p.label for p in (deepen, relative, vocabulary)] == ["gradient", "lookup", "none"]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"proposal": "relative", "start": "prior"}, "set search=gradient"),
        ({"proposal": "relative", "target": "distribution"}, "set search=gradient"),
        ({"search": "gradient"}, "proposal=relative"),
        ({"start": "prior", "search": "gradient"}, "proposal=relative"),
        ({"weight": "fixed", "fixed_alpha": 1.5}, "from 0 to 1"),
        ({"trust": True}, "set proposal=draft"),
        ({"proposal": "draft", "trust": True, "weight": "fixed"}, "leave one of the two out"),
        ({"normalization": "center"}, "normalization=center: expected one of centered, deepen"),
        ({"gate": "neither"}, "gate=neither: expected one of token, memory, both"),
        ({"proposal": "relative", "confidence": "sure"}, "set proposal=draft"),
        ({"fixed_alpha": 0.7}, "set weight=fixed"),
        ({"proposal": "draft", "normalization": "deepen"}, "set proposal=relative"),
    ],
)
def test_combinations_without_a_meaning_are_refused(change, remedy):
    with pytest.raises(InputError, match=remedy):
        FusionSettings(**change)


def test_equal_settings_are_one_rule_and_so_compile_once():
    assert fusion_rule(FusionSettings()) is fusion_rule(PRESETS["vocabulary"])


def test_a_part_that_was_not_built_is_missed_by_name():
    with pytest.raises(InputError, match="the plug-in's table"):
        fusion_rule(PRESETS["relative"])(make_inputs(0.5), Transfer())
