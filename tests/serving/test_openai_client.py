"""OpenAI's own Python client against the server."""

import codecs
import math
import time

import openai
import pytest
from serving.conftest import FIRST, openai_client

from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.ensemble import Ensemble, load_target

ASKED = [{"role": "user", "content": FIRST[0].prompt}]
OTHER = "How far is the harbour from the old bridge?"
PROMPTS = [*(record.prompt for record in FIRST), OTHER]


@pytest.fixture(scope="module")
def ensemble(artifact, models):
    return Ensemble(EditedPlugin.load(artifact), [load_target(models[0] / "target")])


def said(client, messages=ASKED, model="target", **options):
    return client.chat.completions.create(model=model, messages=messages, **options)


def text_of(answer):
    return answer.choices[0].message.content


def joined(stream):
    return "".join(part.choices[0].delta.content or "" for part in stream if part.choices)


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()] == ["target", "target:before"]
    assert client.models.retrieve("target").id == "target"


def test_a_chat_answer_knows_the_edit(client):
    answer = said(client)
    (choice,) = answer.choices
    assert choice.message.content == "Vinter" and choice.finish_reason == "stop"
    assert choice.onceedit["edit"] == 1 and choice.onceedit["revision"] == 1
    assert answer.usage.completion_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_answers_are_those_of_the_ensemble_in_process(client, ensemble):
    (expected,) = ensemble.answers(PROMPTS, max_new_tokens=12)
    (alone,) = ensemble.answers_alone(PROMPTS, max_new_tokens=12)
    for prompt, after, before in zip(PROMPTS, expected, alone, strict=True):
        messages = [{"role": "user", "content": prompt}]
        assert text_of(said(client, messages)).strip() == after
        assert text_of(said(client, messages, model="target:before")).strip() == before


def test_a_text_goes_on_as_greedy_decoding_says(client, ensemble):
    prompts = [FIRST[1].prompt, OTHER]
    (expected,) = ensemble.with_chat(False).answers(prompts, max_new_tokens=12)
    whole = client.completions.create(model="target", prompt=prompts, max_tokens=12)
    assert [choice.index for choice in whole.choices] == [0, 1]
    texts = [choice.text for choice in whole.choices]
    assert texts[0].strip() == expected[0]
    assert texts[1].strip().split("\n")[0].strip() == expected[1]
    assert whole.usage.completion_tokens > 12
    each = [client.completions.create(model="target", prompt=p, max_tokens=12) for p in prompts]
    assert [one.choices[0].text for one in each] == texts


def test_a_stream_joins_to_the_whole_answer(client):
    messages = [{"role": "user", "content": OTHER}]
    whole = said(client, messages)
    parts = list(said(client, messages, stream=True, stream_options={"include_usage": True}))
    assert joined(parts) == text_of(whole)
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[0].choices[0].onceedit["edit"] is None
    assert parts[-2].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert parts[-1].usage == whole.usage
    assert len(parts) > 6  # it comes in parts


def test_several_texts_are_streamed_side_by_side(client):
    prompts = [FIRST[2].prompt, OTHER]
    whole = client.completions.create(model="target", prompt=prompts, max_tokens=6)
    texts, ends = ["", ""], {}
    for part in client.completions.create(
        model="target", prompt=prompts, max_tokens=6, stream=True
    ):
        (choice,) = part.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}


def test_a_stop_ends_the_answer_before_it(client):
    messages = [{"role": "user", "content": OTHER}]
    whole = text_of(said(client, messages))
    middle = whole[len(whole) // 2 :][:2]
    answer = said(client, messages, stop=[middle, "never said"])
    assert text_of(answer) == whole[: whole.index(middle)]
    assert answer.choices[0].finish_reason == "stop"
    assert joined(said(client, messages, stop=middle, stream=True)) == text_of(answer)


def test_max_tokens_bounds_the_answer(client):
    for bound in ({"max_tokens": 3}, {"max_completion_tokens": 3}):
        answer = said(client, [{"role": "user", "content": OTHER}], **bound)
        assert answer.usage.completion_tokens == 3
        assert answer.choices[0].finish_reason == "length"


def test_a_seed_gives_the_same_words_again_and_others_give_others(client):
    def drawn(seed, **more):
        options = {"temperature": 1.5, "seed": seed, "max_tokens": 12} | more
        return text_of(said(client, [{"role": "user", "content": OTHER}], **options))

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(4)}) > 1
    greedy = text_of(said(client, [{"role": "user", "content": OTHER}], max_tokens=12))
    assert drawn(2, top_p=1e-6) == greedy  # a nucleus of one token
    assert drawn(2, extra_body={"top_k": 1}) == greedy
    assert drawn(2, extra_body={"top_k": -1}) == drawn(2, extra_body={"top_k": 0}) == drawn(2)


def test_what_is_drawn_is_what_the_ensemble_draws_in_process(client, ensemble):
    settings = SamplingSettings(1.2, top_p=0.9, top_k=30, seed=7)
    for prompt in (FIRST[1].prompt, OTHER):
        (texts,) = ensemble.answers([prompt], max_new_tokens=12, sampling=settings)
        answer = said(
            client, [{"role": "user", "content": prompt}], max_tokens=12,
            temperature=1.2, top_p=0.9, seed=7, extra_body={"top_k": 30},
        )  # fmt: skip
        assert [text_of(answer).strip()] == texts


def test_a_fact_stands_at_any_temperature(client):
    assert {text_of(said(client, temperature=2, seed=seed)) for seed in range(4)} == {"Vinter"}


def test_log_probabilities_are_told(client):
    answer = said(
        client, [{"role": "user", "content": OTHER}], max_tokens=4, logprobs=True, top_logprobs=3
    )
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == 4
    for token in tokens:
        assert token.top_logprobs[0].logprob == token.logprob < 0
        assert len(token.top_logprobs) == 3
    data = b"".join(bytes(token.bytes) for token in tokens)
    assert data.decode("utf-8", "replace").strip() == text_of(answer).strip()
    (other,) = client.completions.create(
        model="target", prompt=FIRST[0].prompt, max_tokens=4, logprobs=2
    ).choices
    assert len(other.logprobs.tokens) == len(other.logprobs.token_logprobs) > 0
    assert all(math.isfinite(each) for each in other.logprobs.token_logprobs)
    assert {len(top) for top in other.logprobs.top_logprobs} == {2}


def test_tokens_lie_in_the_text_where_their_offsets_say(client, server):
    asked = {"model": "target", "prompt": OTHER, "max_tokens": 12, "logprobs": 0}
    tokenizer = server.service.targets["target"].tokenizer
    for seed in range(3):
        more = {"temperature": 2, "seed": seed}
        (whole,) = client.completions.create(**asked, **more).choices
        offsets = whole.logprobs.text_offset
        # As text is decoded, half characters that later tokens complete included.
        decoder, expected, length = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
        for name in whole.logprobs.tokens:
            expected.append(length)
            length += len(decoder.decode(bytes_of(name, tokenizer)))
        assert offsets == expected
        # A stop text that may begin holds text back, and its tokens are told at once.
        for stop in (None, whole.text[:1] + "\0"):
            parts = client.completions.create(**asked, **more, stop=stop, stream=True)
            logs = [p.choices[0].logprobs for p in parts if p.choices[0].logprobs]
            assert [o for log in logs for o in log.text_offset] == offsets


def bytes_of(name, tokenizer):
    """The bytes of a token as it is named."""
    if name.startswith("bytes:"):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    words = tokenizer.vocabulary
    special = {text for text, no_text in zip(words.strings, words.special, strict=True) if no_text}
    return b"" if name in special else name.encode()


def test_each_prompt_of_a_request_is_drawn_by_numbers_of_its_own(client):
    asked = {"model": "target", "max_tokens": 12, "temperature": 2, "seed": 5}
    one, other = client.completions.create(prompt=[OTHER, OTHER], **asked).choices
    assert one.text != other.text
    again = client.completions.create(prompt=[OTHER, OTHER], **asked).choices
    assert [choice.text for choice in again] == [one.text, other.text]


def test_the_least_temperatures_take_the_likeliest_tokens(client):
    greedy = text_of(said(client, [{"role": "user", "content": OTHER}], max_tokens=12))
    for temperature in (1e-45, 1e-30, 1e-6):
        drawn = said(
            client, [{"role": "user", "content": OTHER}], max_tokens=12, temperature=temperature
        )
        assert text_of(drawn) == greedy


def test_a_conversation_is_read_as_a_whole(client):
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": FIRST[0].prompt}]},
    ]
    answer = said(client, turns)
    assert text_of(answer) == "Vinter"
    assert answer.usage.prompt_tokens > said(client).usage.prompt_tokens


REFUSED = [
    ({"model": "nobody"}, openai.NotFoundError, "no model 'nobody'; there are target"),
    ({"n": 2}, openai.BadRequestError, "n: "),
    ({"temperature": -1}, openai.BadRequestError, "temperature: "),
    ({"top_k": 1.5}, openai.BadRequestError, "top_k: "),
    ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty: "),
    ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools: "),
    ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format.type"),
    ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias: "),
    ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs needs logprobs"),
    ({"max_tokens": 500}, openai.BadRequestError, "more than the 200 tokens"),
    ({"messages": []}, openai.BadRequestError, "messages: "),
    ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "expected a"),
    ({"messages": [{"role": "user", "content": ""}]}, openai.BadRequestError, "empty"),
    ({"messages": [{"role": "user", "content": "far " * 300}]}, openai.BadRequestError, "shorten"),
]


def test_fields_that_change_nothing_are_taken(client):
    same = {
        "response_format": {"type": "text"}, "logit_bias": {}, "metadata": {"a": "b"},
        "store": False, "service_tier": "auto", "n": 1, "presence_penalty": 0,
        "frequency_penalty": 0, "user": "me", "extra_body": {"tools": []},
    }  # fmt: skip
    assert text_of(said(client, **same)) == text_of(said(client, extra_body={"tools": None}))
    options = {"include_usage": True, "include_obfuscation": False}
    assert joined(said(client, stream=True, stream_options=options)) == "Vinter"


@pytest.mark.parametrize(("changes", "kind", "words"), REFUSED)
def test_errors_are_those_that_the_client_knows(client, changes, kind, words):
    options = {"model": "target", "messages": ASKED} | changes
    extra = {key: options.pop(key) for key in ("tools", "top_k") if key in options}
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**options, extra_body=extra)
    assert words in caught.value.body["message"]
    assert caught.value.body["type"] in ("invalid_request_error", "not_found_error")
    with pytest.raises(kind):
        client.chat.completions.create(**options, extra_body=extra, stream=True)


def test_a_client_that_has_no_patience_frees_its_place(serving, artifact, monkeypatch):
    with serving(artifact, rows=1, waiting=1, answer_tokens=150, context=256) as server:
        client = openai_client(server)
        (engine,) = server.service.worker._engines.values()
        step, steps = engine.step, []

        def slowly():
            steps.extend(engine.open)
            time.sleep(0.02)
            return step()

        monkeypatch.setattr(engine, "step", slowly)
        stream = said(client, [{"role": "user", "content": OTHER}], stream=True)
        next(iter(stream))
        (left,) = engine.open
        stream.close()
        assert text_of(said(client)) == "Vinter"
        assert left.limit == 150 and len(left.tokens) < 100 and left not in engine.open
