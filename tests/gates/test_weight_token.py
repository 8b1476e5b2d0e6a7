"""[WEIGHT]: the separate leaf and the paper's joined row are the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.gates.weight_token import (
    alpha,
    apply_threshold,
    gate_logit,
    init_gate,
    joined_head,
)

KEYS = jax.random.split(jax.random.key(0), 3)
HEAD = jax.random.normal(KEYS[0], (11, 6))
GATE = {"kernel": jax.random.normal(KEYS[1], (6,))}
HIDDEN = jax.random.normal(KEYS[2], (4, 6))


def test_the_joined_head_gives_both_the_vocabularys_logits_and_the_gates():
    joined = HIDDEN @ joined_head(HEAD, GATE).T
    assert joined.shape == (4, 12)
    np.testing.assert_allclose(joined[:, :-1], HIDDEN @ HEAD.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(joined[:, -1], gate_logit(GATE, HIDDEN), rtol=1e-5, atol=1e-6)


def test_the_joined_head_keeps_the_heads_dtype():
    assert joined_head(HEAD.astype(jnp.bfloat16), GATE).dtype == jnp.bfloat16


def test_the_gate_reads_in_float32_whatever_the_model_computes_in():
    logit = gate_logit(GATE, HIDDEN.astype(jnp.bfloat16))
    assert logit.dtype == jnp.float32
    np.testing.assert_allclose(logit, gate_logit(GATE, HIDDEN), atol=0.1)


def test_an_untrained_gate_has_no_opinion():
    np.testing.assert_array_equal(alpha(gate_logit(init_gate(6), HIDDEN)), np.full(4, 0.5))


def test_alpha_is_continuous_above_the_threshold_and_zero_below():
    weight = jnp.asarray([0.0, 0.29, 0.3, 0.31, 1.0])
    np.testing.assert_allclose(apply_threshold(weight, 0.3), [0, 0, 0.3, 0.31, 1])
    np.testing.assert_array_equal(apply_threshold(weight, 0.0), weight)
