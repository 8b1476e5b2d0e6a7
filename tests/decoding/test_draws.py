"""Which number draws which token, what the check of a draft adds, and refused settings."""

import drawn_by_numpy
import jax.numpy as jnp
import numpy as np
import pytest

from onceedit_jax.decoding.draws import TAKEN, Draws, after_draft, random_numbers
from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.decoding.sampling import draw
from onceedit_jax.errors import InputError

WARM = SamplingSettings(0.8, 0.9, 5, seed=3)


def test_a_prompt_has_the_same_numbers_wherever_it_stands_in_a_batch():
    draws = Draws(WARM, (0, 1, 2))
    whole = draws.sampling(6, height=4)
    assert whole.uniform.shape == (4, 6)
    for row in range(3):
        expected = random_numbers(3, row, 9)
        np.testing.assert_array_equal(whole.uniform[row], expected[:6])
        (alone,) = draws.of([row]).sampling(6, height=1, written=[3]).uniform
        np.testing.assert_array_equal(alone, expected[3:])
    assert len(np.unique(whole.uniform[:3])) == 18
    assert whole.top_k.tolist() == [5, 5, 5, 0] and whole.temperature[3] == 0


@pytest.mark.parametrize("step", [0, 1])
def test_tokens_of_many_prompts_have_the_distribution_that_they_are_drawn_from(step):
    """By chi-square, whose 99.99% quantile is 25.7 for the six tokens that can be drawn."""
    settings = SamplingSettings(0.8, top_k=6, seed=11)
    logits = np.float32([0.3, -1.0, 2.0, 1.1, -4.0, 0.9, 0.0, -2.0])
    sampling = Draws(settings, tuple(range(4000))).sampling(2, height=4000)
    drawn = np.asarray(draw(jnp.tile(logits, (4000, 1)), sampling, step))
    expected = 4000 * drawn_by_numpy.weights(logits, settings)
    found = np.bincount(drawn, minlength=len(logits))
    assert not found[expected == 0].any()
    can = expected > 0
    assert can.sum() == 6
    assert ((found[can] - expected[can]) ** 2 / expected[can]).sum() < 25.7


def test_nothing_is_drawn_where_the_temperature_is_0():
    assert TAKEN.of([4, 2]).sampling(6, height=8) is None
    assert Draws(SamplingSettings(1e-9, seed=1), (0,)).sampling(6, height=1) is None


@pytest.mark.parametrize(("proposed", "decided", "greedy", "drawn"), [
    ([4, 5, 6], [4, 5, 6], ([4, 5, 6], None), ([4, 5, 6], None)),
    ([4, 5, 6], [4, 7, 6], ([4, 7], None), ([4], 1)),
    ([-1], [8], ([8], None), ([], 0)),
])  # fmt: skip
def test_a_draft_stands_up_to_where_the_rule_takes_another_token(proposed, decided, greedy, drawn):
    assert after_draft(proposed, decided, draws=False) == greedy
    assert after_draft(proposed, decided, draws=True) == drawn


@pytest.mark.parametrize(("settings", "message"), [
    ({"temperature": np.float64("inf")}, "temperature=inf: expected a finite number"),
    ({"temperature": -0.1}, "temperature=-0.1: must be 0 or more"),
    ({"temperature": float("nan")}, "temperature=nan: expected a finite number"),
    ({"temperature": True}, "temperature=True: expected a number"),
    ({"top_p": 0.0}, "top_p=0.0: must be above 0"),
    ({"top_p": 1.5}, "top_p=1.5: expected a finite number, at most 1"),
    ({"top_k": -1}, "top_k=-1: must be 0 or more"),
    ({"seed": True}, "seed=True: expected a whole number"),
])  # fmt: skip
def test_settings_that_no_token_can_be_drawn_by_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        SamplingSettings(**settings)
