"""The compiled greedy loop against one forward pass a token."""

import jax
import numpy as np
import pytest

from onceedit_jax.decoding.greedy import Endings, greedy_continuation, write_greedily
from onceedit_jax.distributed.bucketing import pad_rows, row_positions
from onceedit_jax.models.decoder import forward

PROMPTS = [[5, 6, 7, 8, 9], [40, 41], [3, 3, 3, 10, 11, 12, 13]]
STEPS = 6


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()[0]


def continuation(model, prompts, stops, width=8):
    lengths = [len(prompt) for prompt in prompts]
    return jax.tree.map(
        np.asarray,
        greedy_continuation(
            model.params,
            model.config,
            pad_rows(prompts, width=width),
            row_positions(lengths, width=width),
            Endings(stops, stops, np.zeros_like(stops)),
            steps=STEPS,
        ),
    )


def alone(model, prompt, stops):
    """Tokens and probabilities of one row, the whole text run anew for every token."""
    row, tokens, chances = list(prompt), [], []
    for _ in range(STEPS):
        positions = np.arange(len(row), dtype=np.int32)[None]
        logits = forward(model.params, model.config, np.array([row]), positions)[0][0, -1]
        chance = np.asarray(jax.nn.softmax(logits))
        tokens.append(int(chance.argmax()))
        chances.append(float(chance.max()))
        row.append(tokens[-1])
        if stops[tokens[-1]]:
            break
    return tokens, chances


def test_every_row_goes_on_as_it_would_alone(model):
    stops = np.zeros(model.config.vocab_size, bool)
    # A token that one row writes in mid-way ends that row, and any other that meets it.
    stops[alone(model, PROMPTS[0], stops)[0][2]] = True
    found = continuation(model, PROMPTS, stops)
    for i, prompt in enumerate(PROMPTS):
        tokens, chances = alone(model, prompt, stops)
        assert found.tokens[i, : len(tokens)].tolist() == tokens
        np.testing.assert_allclose(found.probabilities[i, : len(tokens)], chances, rtol=1e-4)
        assert found.length[i] == len(tokens) - bool(stops[tokens[-1]])
    assert found.length[0] <= 2 < STEPS


def test_a_row_that_never_stops_fills_its_steps(model):
    found = continuation(model, PROMPTS, np.zeros(model.config.vocab_size, bool))
    assert found.length.tolist() == [STEPS] * 3


def test_padding_changes_nothing(model):
    stops = np.zeros(model.config.vocab_size, bool)
    narrow, wide = (continuation(model, PROMPTS, stops, width) for width in (8, 16))
    np.testing.assert_array_equal(narrow.tokens, wide.tokens)
    np.testing.assert_allclose(narrow.probabilities, wide.probabilities, rtol=1e-4)


def test_a_second_call_compiles_nothing(model):
    stops = np.zeros(model.config.vocab_size, bool)
    continuation(model, PROMPTS, stops)
    compiled = greedy_continuation._cache_size()
    continuation(model, PROMPTS[::-1], stops)
    assert greedy_continuation._cache_size() == compiled


def test_a_row_that_has_text_already_ends_where_an_empty_one_would_not():
    always = np.array([False, True])
    endings = Endings(np.zeros(2, bool), always, np.zeros(2, bool))

    def written(**options):
        return write_greedily(
            lambda carry: (np.array([1, 1]), np.ones(2)),
            lambda carry, token, step, running: carry,
            np.int32(0),
            np.ones(2, bool),
            endings,
            steps=4,
            **options,
        )

    found = written(blank=np.array([True, False]))
    assert found.length.tolist() == [1, 0] and found.stopped.tolist() == [True, True]
    none = written(limit=0)
    assert none.length.tolist() == [0, 0] and none.stopped.tolist() == [False, False]


def test_what_is_no_end_at_the_beginning_may_be_one_later(model):
    never = np.zeros(model.config.vocab_size, bool)
    first, second = alone(model, PROMPTS[0], never)[0][:2]
    ends = never.copy()
    ends[[first, second]] = True
    blank = never.copy()
    blank[first] = True
    lengths = [len(PROMPTS[0])]
    arrays = pad_rows(PROMPTS[:1], width=8), row_positions(lengths, width=8)

    def length(endings):
        found = greedy_continuation(model.params, model.config, *arrays, endings, steps=STEPS)
        return int(found.length[0])

    assert length(Endings(ends, ends, blank)) == 0
    # Allowed while the row is blank, and the row stays blank after `first` alone.
    assert length(Endings(never, ends, never)) == 1
    assert length(Endings(never, ends, blank)) >= 2
