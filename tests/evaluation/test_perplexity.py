"""Perplexity against NumPy float64, and the simple facts that are asked beside it."""

import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import demo_path
from onceedit_jax.evaluation.perplexity import losses as text_losses_of
from onceedit_jax.evaluation.perplexity import perplexity, perplexity_of
from onceedit_jax.models.decoder import forward

ROWS = [[5, 9, 2, 11, 7], [3, 4], [8, 1, 6], [12], [2, 2, 2, 2, 2, 2, 2, 2, 2, 2]]


def test_perplexity_is_the_exponential_of_the_mean_loss_of_all_tokens_but_the_first(tiny_model):
    model = tiny_model()[0]
    losses = []
    for row in ROWS:
        positions = jnp.arange(len(row))[None]
        logits = forward(model.params, model.config, jnp.array([row]), positions)[0]
        scores = np.asarray(logits, np.float64)[0]
        totals = np.log(np.exp(scores).sum(-1))
        losses += [totals[i] - scores[i, row[i + 1]] for i in range(len(row) - 1)]
    value = perplexity(model.params, model.config, ROWS)
    assert value == pytest.approx(np.exp(np.mean(losses)), rel=1e-4)
    # It does not depend on which rows share a batch, nor on the width of that batch.
    assert perplexity(model.params, model.config, ROWS[::-1]) == pytest.approx(value, rel=1e-5)
    summed = text_losses_of(model.params, model.config, ROWS)
    assert summed[3] == 0 and np.sum(summed) == pytest.approx(np.sum(losses), rel=1e-4)
    assert perplexity_of(summed[:2], ROWS[:2]) == pytest.approx(np.exp(np.mean(losses[:5])))


def test_texts_without_a_second_token_raise(tiny_model):
    model = tiny_model()[0]
    with pytest.raises(ValueError, match="two tokens"):
        perplexity(model.params, model.config, [[3], []])


def test_there_are_forty_different_simple_facts():
    facts = load_records(demo_path("simple_facts.jsonl"))
    assert len(facts) == 40
    assert len({normalise(fact.prompt) for fact in facts}) == 40
    # An answer that its own prompt contains would measure nothing.
    assert not [f for f in facts if normalise(f.target) in normalise(f.prompt).split()]
