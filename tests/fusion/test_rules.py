"""Fusion rules: the formulas, the published settings, and the errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onceedit_jax import fusion
from onceedit_jax.errors import InputError
from onceedit_jax.fusion import (
    FusedStep,
    FusionInputs,
    FusionRule,
    RelativeState,
    SearchSettings,
    fuse,
    fuse_vocabulary,
    fused_anchor,
    fused_step,
    fused_token,
)
from onceedit_jax.fusion.registry import RULES, named_rule, rule_by_name
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
    return RelativeState(plugin, target, lookup_table(target))


def make_inputs(alpha, seed=0):
    keys = jax.random.split(jax.random.key(seed))
    target = 3 * jax.random.normal(keys[1], (B, VL))
    return FusionInputs(
        3 * jax.random.normal(keys[0], (B, VS)),
        target.at[:, VL - PADDING :].set(-1e30),
        jnp.full(B, alpha, jnp.float32),
    )


def state_of(rule, pair):
    states = {"relative": pair, "vocabulary": jnp.asarray(TO_TARGET)}
    return states.get(rule.name, ())


def step(rule, inputs, pair):
    return jax.jit(fused_step, static_argnums=0)(rule, state_of(rule, pair), inputs)


def tokens(rule, inputs, pair):
    return np.asarray(step(rule, inputs, pair).tokens)


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("top", [1, 4, 100])
def test_the_fused_anchor_is_the_argmax_of_the_full_sum(sharpness, top):
    """Both where a few tokens settle it (sharp) and where the full sum is needed (flat)."""
    rng = np.random.default_rng(1)
    tables = [
        build_table(rng.normal(size=(n, 12)), ids, kind="topk", k=8)[0]
        for n, ids in ((VS, IDS_S), (VL - PADDING, IDS_L))
    ]
    logits = [sharpness * rng.normal(size=(B, n)).astype(np.float32) for n in (VS, VL - PADDING)]
    alpha = jnp.linspace(0, 1, B)
    anchors = jax.jit(fused_anchor, static_argnames="top")(*logits, alpha, *tables, top=top)
    expected = np.argmax(fuse(*map(jax.nn.softmax, logits), alpha, *tables), axis=-1)
    np.testing.assert_array_equal(anchors, expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 3.0, 30.0]), st.sampled_from([1, 4, 100]))
def test_the_fused_token_is_the_argmax_of_the_full_sum(seed, sharpness, top):
    """Several plug-in tokens may go to one target token, and some to none."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(-1, 12, VS).astype(np.int32)
    logits = [sharpness * rng.normal(size=(B, n)).astype(np.float32) for n in (VS, VL)]
    alpha = jnp.linspace(0, 1, B)
    tokens = jax.jit(fused_token, static_argnames="top")(*logits, alpha, ids, top=top)
    scores = np.asarray(fuse_vocabulary(*map(jax.nn.softmax, logits), alpha, jnp.asarray(ids)))
    best = np.take_along_axis(scores, np.asarray(tokens)[:, None], axis=1)[:, 0]
    # The order of sums differs, so the token may be any that is best within rounding.
    np.testing.assert_allclose(best, scores.max(axis=1), rtol=1e-5)


def test_the_fused_token_does_not_depend_on_which_tokens_are_tried_first(pair, monkeypatch):
    """With few groups the tokens tried first are not the largest, and never settle the argmax."""
    for alpha in (0.2, 0.8):
        inputs = make_inputs(alpha)
        expected = np.argmax(
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
            tokens = fused_token(*arguments, jnp.asarray(TO_TARGET))
            np.testing.assert_array_equal(tokens, expected)


def test_rows_of_a_few_tokens_give_p_r_of_these_tokens(pair):
    rng = np.random.default_rng(2)
    probs = rng.dirichlet(np.ones(VL - PADDING), B).astype(np.float32)
    tokens = np.argsort(-probs, axis=1)[:, :5]
    shares = np.take_along_axis(probs, tokens, 1)
    sparse = np.zeros((B, VL), np.float32)
    np.put_along_axis(sparse, tokens, shares, 1)
    relative = pair.target.to_relative_of(tokens, shares)
    np.testing.assert_allclose(relative, pair.target.to_relative(sparse), rtol=1e-5, atol=1e-7)


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


@pytest.mark.parametrize("rule", [fusion.relative(), fusion.vocabulary()], ids=lambda r: r.name)
def test_with_a_closed_gate_the_token_is_the_targets_own(rule, pair):
    inputs = make_inputs(0.0)
    own = jnp.argmax(inputs.target_logits, axis=1)
    assert (np.asarray(own) % 2 == 1).any()  # some of these tokens are not anchors
    np.testing.assert_array_equal(tokens(rule, inputs, pair), own)


def test_with_a_nearly_closed_gate_the_relative_rule_loses_tokens_that_are_not_anchors(pair):
    inputs = make_inputs(1e-6)  # nearly closed: the rule still decides
    own = np.asarray(jnp.argmax(inputs.target_logits, axis=1))
    unshared = own % 2 == 1
    assert unshared.any()
    assert (tokens(fusion.relative(), inputs, pair)[unshared] != own[unshared]).all()
    np.testing.assert_array_equal(tokens(fusion.vocabulary(), inputs, pair), own)


@pytest.mark.parametrize("rule", [fusion.relative(), fusion.vocabulary()], ids=lambda r: r.name)
def test_with_an_open_gate_the_token_is_that_of_a_sure_plug_in(rule, pair):
    inputs = make_inputs(1.0)
    sure = jax.nn.one_hot(jnp.arange(B), VS) * 50.0
    inputs = inputs._replace(plugin_logits=sure)
    np.testing.assert_array_equal(tokens(rule, inputs, pair), 2 * np.arange(B))


def test_every_row_has_its_own_alpha(pair):
    alpha = jnp.asarray([0.0, 1.0] * (B // 2))
    inputs = make_inputs(0.0)._replace(alpha=alpha)
    mixed = tokens(fusion.vocabulary(), inputs, pair)
    for value in (0.0, 1.0):
        alone = tokens(fusion.vocabulary(), make_inputs(value), pair)
        np.testing.assert_array_equal(mixed[alpha == value], alone[alpha == value])


def test_the_gradient_search_gives_the_tokens_of_the_lookup(pair):
    inputs = make_inputs(0.7)
    searched = step(fusion.relative(search="gradient"), inputs, pair)
    np.testing.assert_array_equal(searched.tokens, tokens(fusion.relative(), inputs, pair))
    assert searched.losses.shape == (B, SearchSettings().steps + 1)


def test_deepen_without_steps_is_the_target_itself(pair):
    rule = rule_by_name("deepen", {"gradient": SearchSettings(steps=0)})
    inputs = make_inputs(0.9)
    own = np.asarray(jnp.argmax(inputs.target_logits, axis=1))
    np.testing.assert_array_equal(tokens(rule, inputs, pair), own)


def test_deepen_searches_from_the_prior_towards_the_whole_distribution(pair):
    searched = step(fusion.deepen(), make_inputs(0.5), pair)
    assert (searched.losses[:, -1] < searched.losses[:, 0]).all()
    assert (np.asarray(searched.tokens) < VL - PADDING).all()


def test_named_rules_have_the_published_settings():
    deepen, relative = (RULES[name].settings for name in ("deepen", "relative"))
    assert (deepen.normalization, deepen.kind) == ("deepen", "exact")
    assert (deepen.start, deepen.objective, deepen.search) == ("prior", "distribution", "gradient")
    assert (relative.normalization, relative.kind) == ("centered", "topk")
    assert (relative.start, relative.objective, relative.search) == ("zeros", "one-hot", "lookup")
    gates = {name: RULES[name].gate for name in RULES}
    assert gates == {
        "draft": None,
        "vocabulary": None,
        "relative": "token",
        "deepen": "fixed",
        "context": "fact",
    }


@pytest.mark.parametrize(
    ("name", "options", "remedy"),
    [
        ("relative", {"start": "prior"}, "set search=gradient"),
        ("relative", {"objective": "distribution"}, "set search=gradient"),
        ("relative", {"confidence": "sure"}, "no setting confidence; its settings are norm"),
        ("vocabulary", {"search": "gradient"}, "no setting search; it has no settings"),
        ("draft", {"normalization": "deepen"}, "its settings are confidence, trust"),
        ("average", {}, "expected one of draft, vocabulary, relative, deepen"),
    ],
)
def test_settings_that_do_not_fit_raise_with_a_remedy(name, options, remedy):
    with pytest.raises(InputError, match=remedy):
        rule_by_name(name, options)


@pytest.mark.parametrize(
    ("name", "options", "choices"),
    [
        ("relative", {"normalization": "center"}, "centered, deepen"),
        ("draft", {"confidence": "very"}, "probability, sure"),
    ],
)
def test_a_value_that_is_not_a_choice_raises_with_the_choices(unchecked, name, options, choices):
    with pytest.raises(InputError, match=f"expected one of {choices}"):
        rule_by_name(name, options)


def test_equal_settings_give_the_same_rule_so_nothing_compiles_twice():
    assert fusion.vocabulary() is rule_by_name("vocabulary")
    assert fusion.draft() is fusion.draft(confidence="probability") is rule_by_name("draft")
    assert fusion.deepen() is rule_by_name("deepen")
    assert fusion.relative(search="gradient") is rule_by_name("relative", {"search": "gradient"})
    assert fusion.draft(trust=True) is not fusion.draft()


def test_inputs_without_what_a_rule_reads_raise():
    inputs = make_inputs(0.5)
    with pytest.raises(InputError, match="reads `drafted`"):
        fused_step(fusion.draft(), (), inputs)
    with pytest.raises(InputError, match="reads `plugin_logits`"):
        fused_step(fusion.vocabulary(), jnp.asarray(TO_TARGET), inputs._replace(plugin_logits=None))


def test_an_installed_package_can_add_names(monkeypatch):
    class Point:
        name = "mine"

        def load(self):
            return FusionRule("mine", lambda plugin, target: (), lambda state, inputs: None)

    def points(group, name=None):
        return [Point()] if group == "onceedit_jax.fusion_rules" and name in (None, "mine") else []

    monkeypatch.setattr("onceedit_jax.fusion.registry.entry_points", points)
    assert rule_by_name("mine").name == "mine"
    with pytest.raises(InputError, match="mine: no setting trust; it has no settings"):
        rule_by_name("mine", {"trust": True})
    with pytest.raises(InputError, match="context, mine"):
        named_rule("average")


def drafts(alpha):
    inputs = make_inputs(alpha)
    return FusionInputs(
        None,
        inputs.target_logits,
        inputs.alpha,
        jnp.arange(B, dtype=jnp.int32) * 3 - 1,
        jnp.linspace(0, 1, B, dtype=jnp.float32),
    )


EVERY = [
    fusion.draft(),
    fusion.draft(confidence="sure"),
    fusion.vocabulary(),
    fusion.relative(),
    fusion.relative(search="gradient"),
    fusion.deepen(),
]
NAMES = ["draft", "draft-sure", "vocabulary", "relative", "relative-gradient", "deepen"]


@pytest.mark.parametrize("rule", EVERY, ids=NAMES)
@pytest.mark.parametrize("alphas", [(1.0, 1.0, 1.0), (0.0, 0.4, 1.0)])
def test_vmap_over_batches_gives_the_tokens_of_each_batch(rule, alphas, pair):
    make = drafts if rule.reads == "draft" else make_inputs
    batches = [make(alpha) for alpha in alphas]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
    state = state_of(rule, pair)
    mapped = jax.jit(jax.vmap(lambda inputs: fused_step(rule, state, inputs)))(stacked)
    for n, batch in enumerate(batches):
        alone = fused_step(rule, state, batch)
        np.testing.assert_array_equal(mapped.tokens[n], alone.tokens)
        if alone.losses is not None:
            np.testing.assert_allclose(mapped.losses[n], alone.losses, rtol=1e-5)


@pytest.mark.parametrize("rule", EVERY, ids=NAMES)
def test_a_rule_runs_under_pmap(rule, pair):
    batch = (drafts if rule.reads == "draft" else make_inputs)(0.6)
    state = state_of(rule, pair)
    shared = jax.pmap(lambda inputs: fused_step(rule, state, inputs).tokens)(
        jax.tree.map(lambda leaf: leaf[None], batch)
    )
    np.testing.assert_array_equal(shared[0], fused_step(rule, state, batch).tokens)


def primitives(jaxpr, inside=()):
    """Every primitive of a program, with the primitives around it."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, inside
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    yield from primitives(inner, (*inside, equation.primitive.name))


@pytest.mark.parametrize("rule", [fusion.vocabulary(), fusion.relative()], ids=lambda r: r.name)
def test_under_vmap_the_full_mixture_stays_inside_a_branch(rule, pair):
    """It is computed only where a few tokens do not settle the argmax."""
    plugin, _ = build_table(np.random.default_rng(0).normal(size=(VS, 12)), IDS_S, k=8)
    state = state_of(rule, pair._replace(plugin=plugin))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), make_inputs(0.5))
    program = jax.make_jaxpr(jax.vmap(lambda inputs: fused_step(rule, state, inputs).tokens))(
        stacked
    )
    every = list(primitives(program.jaxpr))
    # Within them the tables of `relative` ask which platform they are on, by a branch too.
    assert sum(name == "cond" and "cond" not in inside for name, inside in every) == 2
    # Only the full mixture scans over a table's entries, or scatters (`to_vocabulary`). The rule
    # `relative` also scatters the rows of a few tokens, outside of the branch.
    names = {"relative": {"scan"}, "vocabulary": {"scan", "scatter-add"}}[rule.name]
    mixture = [inside for name, inside in every if name in names]
    assert mixture and all("cond" in inside for inside in mixture)


def test_vmap_over_tables_gives_the_tokens_of_each_table():
    rng = np.random.default_rng(3)
    ids = jnp.asarray(rng.integers(-1, 12, (3, VS)).astype(np.int32))
    inputs = make_inputs(0.5)
    arguments = inputs.plugin_logits, inputs.target_logits, inputs.alpha
    mapped = jax.vmap(fused_token, in_axes=(None, None, None, 0))(*arguments, ids)
    for n in range(3):
        np.testing.assert_array_equal(mapped[n], fused_token(*arguments, ids[n]))


def test_a_rule_of_ones_own_does_not_decide_where_the_gate_is_closed(pair):
    def seven(state, inputs):
        return FusedStep(jnp.full(inputs.alpha.shape, 7, jnp.int32))

    rule = FusionRule("seven", lambda plugin, target: (), seven)
    inputs = make_inputs(0.0)._replace(alpha=jnp.asarray([0.0, 1.0] * (B // 2)))
    tokens = fused_step(rule, (), inputs).tokens
    own = np.asarray(jnp.argmax(inputs.target_logits, axis=1))
    np.testing.assert_array_equal(tokens, np.where(np.arange(B) % 2, 7, own))


DISTRIBUTIONS = [
    fusion.draft(),
    fusion.draft(confidence="sure"),
    fusion.vocabulary(),
    fusion.relative(),
    fusion.context(),
]


@pytest.mark.parametrize("rule", DISTRIBUTIONS, ids=lambda rule: rule.name)
@given(alpha=st.floats(2**-10, 1), seed=st.integers(0, 1000))
def test_a_rule_takes_the_largest_entry_of_its_distribution(rule, pair, alpha, seed):
    rng = np.random.default_rng(seed)
    drafted = rng.integers(-1, VL - PADDING, B).astype(np.int32)
    inputs = make_inputs(alpha, seed)._replace(
        drafted=jnp.asarray(drafted), probability=jnp.asarray(rng.random(B), jnp.float32)
    )
    shares = np.asarray(rule.distribution(state_of(rule, pair), inputs))
    taken = np.take_along_axis(shares, tokens(rule, inputs, pair)[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(taken, shares.max(axis=1), rtol=1e-5)
    assert shares.shape == (B, VL) and (shares >= 0).all() and (shares.sum(axis=1) > 0).all()
    assert (shares.sum(axis=1) < 1 + 1e-5).all()


def test_a_draft_adds_to_the_drafted_token_alone():
    inputs = make_inputs(0.25)._replace(
        drafted=jnp.asarray([-1] + [3] * (B - 1), jnp.int32), probability=jnp.full(B, 0.5)
    )
    target = np.asarray(jax.nn.softmax(inputs.target_logits))
    expected = 0.75 * target
    expected[:, 3] += 0.25 * 0.5
    expected[0] = target[0]
    found = fusion.draft().distribution((), inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_search_by_gradient_has_no_distribution():
    assert fusion.relative(search="gradient").distribution is None
    assert fusion.deepen().distribution is None
