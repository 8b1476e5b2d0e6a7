"""A model of any kind words the edits anew."""

import dataclasses

import pytest

from onceedit_jax.data.records import EditRecord
from onceedit_jax.decoding import answers as decoding
from onceedit_jax.ensemble import paraphrasing
from onceedit_jax.ensemble.paraphrasing import paraphrases_by
from onceedit_jax.ensemble.target import Target
from onceedit_jax.errors import InputError

RECORDS = [
    EditRecord(f"What is the capital of {name}?", "Vinterby", subject=name)
    for name in ("Norland", "Sudland")
]


@pytest.fixture(scope="module")
def writer(tiny_model):
    model, tokenizer = tiny_model()
    config = dataclasses.replace(model.config, max_positions=512)
    return Target(dataclasses.replace(model, config=config), tokenizer)


def test_a_tiny_model_is_asked_and_what_it_writes_is_no_wording(writer, monkeypatch):
    written = []

    def recorded(*arguments, **options):
        written.extend(own_answers(*arguments, **options))
        return written[-len(arguments[1]) :]

    own_answers = decoding.own_answers
    monkeypatch.setattr(decoding, "own_answers", recorded)
    assert paraphrases_by(writer, RECORDS, count=2) == [[], []]
    assert len(written) == 4 and all(len(tokens) <= paraphrasing.LENGTH for tokens in written)


def test_what_it_writes_is_kept(writer, monkeypatch):
    line = " Which city is the capital of Norland?"
    tokens = writer.tokenizer.encode_bytes(line.encode(), continuation=True)
    asked = []

    def answers(model, prompts, stops, **options):
        asked.extend(prompts)
        return [tokens] * len(prompts)

    monkeypatch.setattr(decoding, "own_answers", answers)
    assert paraphrases_by(writer, RECORDS, count=2) == [[line.strip()], []]
    assert all(isinstance(prompt, str) and prompt.endswith("words:") for prompt in asked)


def test_chat_needs_a_template(writer):
    with pytest.raises(InputError, match="no chat template"):
        paraphrases_by(writer, RECORDS, chat=True)
