"""Many prompts are continued as each would be alone, whatever joins and leaves meanwhile."""

import dataclasses

import jax
import numpy as np
import pytest

from onceedit_jax.decoding import many_rows
from onceedit_jax.decoding.answers import Writer, own_answers, own_tokens
from onceedit_jax.decoding.draws import TAKEN, Draws
from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.decoding.many_rows import many_continuations
from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.decoding.stopping import progress_table
from onceedit_jax.errors import InputError, RunError
from onceedit_jax.text.prompts import PromptFormat

STEPS = 12


@pytest.fixture(scope="module")
def model(tiny_model):
    return tiny_model()[0]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A batch that is soon full."""
    monkeypatch.setattr(many_rows, "ROWS", 8)
    monkeypatch.setattr(many_rows, "JOINING", 2)


def prompts(count, vocab):
    random = np.random.default_rng(0)
    return [random.integers(1, vocab, 1 + int(n)).tolist() for n in random.integers(0, 20, count)]


def stops_for(model, *, every=5, texts=()):
    size = model.config.vocab_size
    ends, blank = np.arange(size) % every == 0, np.arange(size) % 3 == 0
    progress = None
    if texts:
        pieces = [bytes([97 + token % 26]) for token in range(size)]
        progress = progress_table(pieces, list(texts), vocab_size=size)
    return StopTokens(ends & ~blank, ends, blank, progress)


def tokens_of(model, rows, stops, **how):
    written = many_continuations(model.params, model.config, rows, stops, steps=STEPS, **how)
    return [each.tokens for each in written]


def one_by_one(model, rows, stops, draws=TAKEN):
    return [tokens_of(model, [row], stops, draws=draws.of([i]))[0] for i, row in enumerate(rows)]


def test_a_model_that_multiplies_in_bfloat16_continues_many_prompts(model):
    short = dataclasses.replace(model, config=model.config.with_compute_dtype("bfloat16"))
    rows = prompts(21, model.config.vocab_size)
    stops = stops_for(model)
    found, alone = tokens_of(short, rows, stops), one_by_one(short, rows, stops)
    # Sums of another order may make another token of two that are nearly equal.
    assert sum(a == b for a, b in zip(found, alone, strict=True)) >= 19


@pytest.mark.parametrize("texts", [(), ("ab", "c")])
def test_every_prompt_is_continued_as_it_would_be_alone(model, texts):
    rows = prompts(21, model.config.vocab_size)
    stops = stops_for(model, texts=texts)
    found = tokens_of(model, rows, stops)
    assert found == one_by_one(model, rows, stops)
    assert len({len(answer) for answer in found}) > 3  # they do end at different times
    assert max(map(len, found)) <= STEPS


def test_rows_that_never_stop_have_all_steps_in_caches_that_are_soon_full(model):
    rows = prompts(11, model.config.vocab_size)
    never = np.zeros(model.config.vocab_size, bool)
    found = tokens_of(model, rows, StopTokens(never, never, never))
    assert [len(answer) for answer in found] == [STEPS] * 11


def test_answers_are_those_of_a_single_batch(tiny_model):
    model, tokenizer = tiny_model()
    writer = Writer(model.params, model.config, PromptFormat(tokenizer))
    asked = [f"Where is town {n}{' in the north' * (n % 4)}?" for n in range(20)]
    stops, how = stops_for(model), {"max_new_tokens": STEPS}
    for draws in (TAKEN, Draws(SamplingSettings(0.8, 0.9, 30, 1), tuple(range(20)))):
        found = own_tokens(writer, asked, stops, **how, draws=draws)
        for start in (0, 16):
            part = range(start, min(start + 16, 20))
            expected = own_answers(
                writer, [asked[i] for i in part], stops, **how, draws=draws.of(part)
            )
            assert [found[i] for i in part] == expected


def test_what_is_read_along_has_its_states_and_changes_nothing(model):
    rows = prompts(21, model.config.vocab_size)
    along = [text[: n % 4] for n, text in enumerate(prompts(21, model.config.vocab_size))]
    stops, how = stops_for(model), {"steps": STEPS}
    found = many_continuations(model.params, model.config, rows, stops, **how, along=along)
    assert [each.tokens for each in found] == tokens_of(model, rows, stops)
    for row, more, each in zip(rows, along, found, strict=True):
        whole = [*row, *more]
        expected = states_after(model.params, model.config, [whole], [len(more) + 1])
        np.testing.assert_allclose(each.along, expected, atol=2e-5)


def test_the_last_rows_are_written_in_a_lower_batch(model, monkeypatch):
    heights = []
    plain = many_rows._Writing._sampling
    monkeypatch.setattr(
        many_rows._Writing,
        "_sampling",
        lambda writing, height: heights.append(height) or plain(writing, height),
    )
    rows, stops = prompts(21, model.config.vocab_size), stops_for(model)
    assert tokens_of(model, rows, stops) == one_by_one(model, rows, stops)
    whole = heights[: heights.index(2)]
    assert set(whole) == {8} and set(heights[len(whole) : -21]) == {2}


def test_a_second_call_compiles_nothing(model):
    rows, stops = prompts(21, model.config.vocab_size), stops_for(model)
    many_continuations(model.params, model.config, rows, stops, steps=STEPS)
    compiled = many_rows._write._cache_size()
    many_continuations(model.params, model.config, rows[::-1], stops, steps=STEPS)
    assert many_rows._write._cache_size() == compiled


def test_long_texts_are_written_in_a_small_batch(model, monkeypatch):
    heights = []
    monkeypatch.setattr(many_rows, "COLUMNS", 40)
    plain = many_rows._Writing._sampling
    monkeypatch.setattr(
        many_rows._Writing,
        "_sampling",
        lambda writing, height: heights.append(height) or plain(writing, height),
    )
    rows = [*prompts(7, model.config.vocab_size), [3] * 60]
    stops = stops_for(model)
    found = tokens_of(model, rows, stops)
    assert set(heights) <= {1, 2}
    assert found == one_by_one(model, rows, stops)


def test_what_cannot_be_written_is_refused(model):
    stops = stops_for(model)
    with pytest.raises(InputError, match="256"):
        many_continuations(model.params, model.config, [[1] * 250, [2]], stops, steps=STEPS)
    broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), model.params)
    with pytest.raises(RunError, match="not finite"):
        many_continuations(broken, model.config, [[1, 2]] * 3, stops, steps=STEPS)


def test_no_prompts_have_no_answers(model):
    assert many_continuations(model.params, model.config, [], stops_for(model), steps=STEPS) == []
