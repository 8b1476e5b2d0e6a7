"""A small model that drafts for a target: the target's own tokens, in fewer passes."""

import dataclasses

import jax
import numpy as np
import pytest
from compiled_steps import compilations
from support import byte_level_tokenizer
from tiny_tokenizers import with_template

from onceedit_jax.decoding import cached_text, speculation
from onceedit_jax.decoding.answers import Writer, own_answers
from onceedit_jax.decoding.draws import Draws
from onceedit_jax.decoding.greedy import StopTokens
from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.decoding.speculation import CHECKED, CREDIT, Helper, helped_answer
from onceedit_jax.decoding.stopping import answer_stops, text_of, text_stops
from onceedit_jax.errors import RunError
from onceedit_jax.text.chat import ChatTemplate
from onceedit_jax.text.prompts import PromptFormat
from onceedit_jax.text.tokenizer import Tokenizer

PROMPTS = ["What is the capital of Norland?", "Who été, and how far is it?"]
TURNS = [{"role": "user", "content": "Who?"}]
LONG = 24


@pytest.fixture(scope="module")
def target(tiny_model):
    """A target that writes letters, so that no text of it is tokenized in another way."""
    return writer(*tiny_model(0, 3))


@pytest.fixture(scope="module")
def words(tiny_model):
    """A target that writes words."""
    return writer(*tiny_model(80, 1))


def writer(model, tokenizer):
    return Writer(model.params, model.config, PromptFormat(tokenizer))


def helper(writer, *, step=0.0, column=0.0, sure=1.0):
    """A helper; one that is `sure` gives its likeliest tokens a higher probability."""
    params = {**writer.params, "final_norm": jax.tree.map(
        lambda scale: scale * sure, writer.params["final_norm"]
    )}  # fmt: skip
    return Helper(params, writer.config, writer.tokenizer, step, column)


def stops_at(writer, *tokens):
    ends = np.zeros(writer.config.vocab_size, bool)
    ends[list(tokens)] = True
    return StopTokens(ends, ends, np.zeros_like(ends))


def alone(target, prompt, stops, length):
    return own_answers(target, [prompt], stops, max_new_tokens=length)[0]


@pytest.fixture
def passes(monkeypatch):
    """Columns of each check, and the tokens that the target may write alone after them."""
    seen = []

    def checked(*arguments):
        seen.append(arguments[3].tokens.shape[1])
        return cached_text.tokens_at(*arguments)

    def rest(*arguments, steps):
        seen.append(("alone", arguments[7]))
        return cached_text.write_on(*arguments, steps=steps)

    monkeypatch.setattr(speculation, "tokens_at", checked)
    monkeypatch.setattr(speculation, "write_on", rest)
    return seen


def test_tokens_that_are_drawn_are_those_that_the_target_draws_alone(words, passes):
    """With a draft that is right about as often as not."""
    stops = stops_at(words)
    for seed in range(4):
        draws = Draws(SamplingSettings(0.7, 0.95, 20, seed), (2,))
        how = {"max_new_tokens": LONG, "draws": draws}
        passes.clear()
        found = helped_answer(words, helper(words, step=0.02), PROMPTS[0], stops, **how)
        assert [found] == own_answers(words, [PROMPTS[0]], stops, **how)
        assert LONG / CHECKED < len(passes) < LONG


@pytest.mark.parametrize("length", [1, LONG])
def test_the_tokens_are_those_of_the_target_alone(words, tiny_model, length):
    """Whatever drafts: another tokenizer, or a model that is always wrong."""
    stops = answer_stops(words.format, words.config.vocab_size)
    for prompt in PROMPTS:
        expected = alone(words, prompt, stops, length)
        for other in (helper(writer(*tiny_model(40, 0))), helper(words, sure=-1.0)):
            answer = helped_answer(words, other, prompt, stops, max_new_tokens=length)
            assert answer == expected


def test_an_answer_ends_where_the_targets_own_does(target):
    tokens = alone(target, PROMPTS[0], stops_at(target), LONG)
    for place in (0, 3, CHECKED, LONG - 1):
        stops = stops_at(target, tokens[place])
        answer = helped_answer(target, helper(target), PROMPTS[0], stops, max_new_tokens=LONG)
        assert answer == tokens[: tokens.index(tokens[place])]


def test_a_token_may_end_an_answer_only_after_other_text(target):
    first, second = alone(target, PROMPTS[0], stops_at(target), 2)
    never, blank = (stops_at(target, *some).in_text for some in ((), (first,)))
    for stops in (
        StopTokens(never, stops_at(target, first, second).in_text, blank),
        StopTokens(never, stops_at(target, first, second).in_text, never),
    ):
        answer = helped_answer(target, helper(target), PROMPTS[0], stops, max_new_tokens=LONG)
        assert answer == alone(target, PROMPTS[0], stops, LONG)


def test_a_text_of_several_tokens_ends_an_answer(target, passes):
    """Whether it comes in a draft that is checked, or when the target goes on alone."""
    tokens = alone(target, PROMPTS[0], stops_at(target), LONG)
    text = target.texts([tokens[10:13]])[0]
    form = dataclasses.replace(target.format, goes_on=True, until=(text,))
    stopped = target._replace(format=form)
    stops = text_stops(form, target.config.vocab_size)
    wrong = helper(target, step=0.05, column=0.05, sure=-100.0)
    for each in (helper(target), wrong):
        answer = helped_answer(stopped, each, PROMPTS[0], stops, max_new_tokens=LONG)
        assert answer == alone(stopped, PROMPTS[0], stops, LONG)
        assert 0 < len(answer) <= 13 and text_of(form, answer) + text in text_of(
            target.format, tokens
        )


def test_a_model_that_drafts_for_itself_is_always_right(target, passes):
    stops = stops_at(target)
    for prompt in PROMPTS:
        passes.clear()
        helped_answer(target, helper(target), prompt, stops, max_new_tokens=LONG)
        assert len(passes) == -(-LONG // CHECKED)


def test_a_model_that_is_always_wrong_soon_stops(target, passes):
    """It is sure of itself, and the target goes on in one loop."""
    wrong = helper(target, step=0.05, column=0.05, sure=-100.0)
    for prompt in PROMPTS:
        passes.clear()
        helped_answer(target, wrong, prompt, stops_at(target), max_new_tokens=LONG)
        *checks, rest = passes
        lost = CHECKED * wrong.step + (CHECKED - 1) * wrong.column
        assert len(checks) <= CREDIT / (lost - wrong.step) + 1
        assert rest == ("alone", LONG - len(checks))


def test_a_model_that_is_not_sure_drafts_nothing(target, passes):
    unsure = helper(target, step=0.25, column=0.5, sure=0.01)
    helped_answer(target, unsure, PROMPTS[0], stops_at(target), max_new_tokens=LONG)
    first, *checks, rest = passes
    assert first >= len(target.format.encode(PROMPTS[0]))
    assert checks == [1] * len(checks) and rest == ("alone", LONG - 1 - len(checks))


def test_a_text_that_is_too_long_for_the_helper_is_written_alone(target, passes):
    small = helper(target)
    small = small._replace(config=dataclasses.replace(small.config, max_positions=20))
    stops = stops_at(target)
    answer = helped_answer(target, small, PROMPTS[0], stops, max_new_tokens=LONG)
    assert answer == alone(target, PROMPTS[0], stops, LONG)
    assert passes == [("alone", LONG)]


def test_logits_that_are_no_numbers_end_a_run(target):
    params = {**target.params, "embed": {"tokens": target.params["embed"]["tokens"] * np.nan}}
    broken = target._replace(params=params)
    with pytest.raises(RunError, match=r"after layer 1 of 2 are not finite"):
        helped_answer(broken, helper(target), PROMPTS[0], stops_at(target), max_new_tokens=LONG)


def test_a_second_answer_compiles_nothing(words, tiny_model):
    stops = answer_stops(words.format, words.config.vocab_size)
    other = helper(writer(*tiny_model(40, 0)), step=0.01)

    def compiled_after(prompt):
        helped_answer(words, other, prompt, stops, max_new_tokens=LONG)
        return compilations()

    assert compiled_after(PROMPTS[0]) == compiled_after(PROMPTS[0])


def chatting(template, **settings):
    """A format with a chat template."""
    tokenizer = Tokenizer(with_template(byte_level_tokenizer(40).hf, template))
    return PromptFormat(tokenizer, ChatTemplate(tokenizer), **settings)


@pytest.mark.parametrize("template", ["chatml", "mistral"])
@pytest.mark.parametrize("asked", ["chatml", "mistral"])
def test_in_chat_the_helper_reads_its_own_template_and_then_the_answer(words, template, asked):
    own, form = chatting(template), chatting(asked)
    other = helper(words)._replace(tokenizer=own.tokenizer)
    spaced = b" " if form.spaced else b""
    answer = form.tokenizer.encode_bytes(spaced + b"the cat", continuation=True)
    read = speculation._Drafts(other, form, TURNS, LONG)._read(answer)
    head = own.encode(TURNS)
    assert read[: len(head)] == head
    rest = own.tokenizer.decode_bytes(read[len(head) :], continuation=True)
    assert rest == (b" the cat" if own.spaced else b"the cat")


def test_a_helper_whose_template_refuses_the_prompt_reads_text(words):
    own, form = chatting("mistral"), chatting("chatml", system="Be brief.")
    for tokenizer in (own.tokenizer, words.tokenizer):
        drafts = speculation._Drafts(helper(words)._replace(tokenizer=tokenizer), form, TURNS, LONG)
        answer = form.tokenizer.encode_bytes(b"the cat", continuation=True)
        assert tokenizer.decode_bytes(drafts._read(answer)) == b"Who?\n\nthe cat"
