"""The compiled greedy loop against one forward pass a token."""

import jax
import numpy as np
import pytest

from onceedit_jax.decoding.greedy import StopTokens, greedy_continuation, write_tokens
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
            StopTokens(stops, stops, np.zeros_like(stops)),
            steps=STEPS,
        ),
    )


def alone(model, prompt, stops):
    """Tokens and probabilities of one row, with one pass over the whole text for each token."""
    row, tokens, probabilities = list(prompt), [], []
    for _ in range(STEPS):
        positions = np.arange(len(row), dtype=np.int32)[None]
        logits = forward(model.params, model.config, np.array([row]), positions)[0][0, -1]
        distribution = np.asarray(jax.nn.softmax(logits))
        tokens.append(int(distribution.argmax()))
        probabilities.append(float(distribution.max()))
        row.append(tokens[-1])
        if stops[tokens[-1]]:
            break
    return tokens, probabilities


def test_every_row_is_continued_as_it_would_be_alone(model):
    stops = np.zeros(model.config.vocab_size, bool)
    # The third token of one row ends that row, and any other row that writes it.
    stops[alone(model, PROMPTS[0], stops)[0][2]] = True
    written = continuation(model, PROMPTS, stops)
    for i, prompt in enumerate(PROMPTS):
        tokens, probabilities = alone(model, prompt, stops)
        count = len(tokens)
        assert written.tokens[i, :count].tolist() == tokens
        np.testing.assert_allclose(written.probabilities[i, :count], probabilities, rtol=1e-4)
        assert written.length[i] == count - bool(stops[tokens[-1]])
    assert written.length[0] <= 2 < STEPS


def test_a_row_that_never_stops_has_all_steps(model):
    written = continuation(model, PROMPTS, np.zeros(model.config.vocab_size, bool))
    assert written.length.tolist() == [STEPS] * 3


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


def test_a_row_with_text_stops_at_a_token_that_does_not_stop_an_empty_row():
    always = np.array([False, True])
    stops = StopTokens(np.zeros(2, bool), always, np.zeros(2, bool))

    def written(**options):
        return write_tokens(
            lambda carry, step: (np.array([1, 1]), np.ones(2)),
            lambda carry, token, step, running: carry,
            np.int32(0),
            np.ones(2, bool),
            stops,
            steps=4,
            **options,
        )

    some = written(blank=np.array([True, False]))
    assert some.length.tolist() == [1, 0] and some.stopped.tolist() == [True, True]
    none = written(limit=0)
    assert none.length.tolist() == [0, 0] and none.stopped.tolist() == [False, False]


def test_a_token_may_stop_a_row_only_after_other_text(model):
    never = np.zeros(model.config.vocab_size, bool)
    first, second = alone(model, PROMPTS[0], never)[0][:2]
    ends = never.copy()
    ends[[first, second]] = True
    blank = never.copy()
    blank[first] = True
    lengths = [len(PROMPTS[0])]
    arrays = pad_rows(PROMPTS[:1], width=8), row_positions(lengths, width=8)

    def length(stops):
        written = greedy_continuation(model.params, model.config, *arrays, stops, steps=STEPS)
        return int(written.length[0])

    assert length(StopTokens(ends, ends, blank)) == 0
    # `first` does not stop an empty row. Whether it leaves the row blank decides about `second`.
    assert length(StopTokens(never, ends, never)) == 1
    assert length(StopTokens(never, ends, blank)) >= 2


def test_a_row_that_opens_begins_with_text(model):
    """Not with an end, two blanks, or, if so asked, the rest of a word; others share the chance."""
    never = np.zeros(model.config.vocab_size, bool)
    positions = np.arange(len(PROMPTS[0]), dtype=np.int32)[None]
    row = np.array(PROMPTS[:1])
    logits = np.asarray(forward(model.params, model.config, row, positions)[0][0, -1])
    ends, blank = never.copy(), never.copy()
    order = np.argsort(-logits)
    ends[order[:2]], blank[order[2]] = True, True

    def written(opens, blank, glued=None):
        return greedy_continuation(
            model.params,
            model.config,
            pad_rows([PROMPTS[0]] * 2, width=8),
            row_positions([len(PROMPTS[0])] * 2, width=8),
            StopTokens(ends, ends, blank),
            steps=STEPS,
            opens=np.array(opens, np.int32),
            glued=glued,
        )

    found = written([1, 0], never)
    assert found.length[1] == 0 and found.stopped[1]
    assert found.tokens[:, 0].tolist() == [order[2], order[0]]
    allowed = np.exp(logits[order[2:]].astype(float))
    np.testing.assert_allclose(found.probabilities[0, 0], allowed[0] / allowed.sum(), rtol=1e-4)
    tokens = np.asarray(written([1, 0], blank).tokens[0])
    assert tokens[0] == order[2] and not (ends | blank)[tokens[1]]
    glued = never.copy()
    glued[order[2]] = True
    assert written([2, 1], never, glued).tokens[:, 0].tolist() == [order[3], order[2]]
    # Nothing is glued to a blank.
    tokens = np.asarray(written([2, 0], blank, ~(ends | blank)).tokens[0])
    assert tokens[0] == order[2] and not (ends | blank)[tokens[1]]
