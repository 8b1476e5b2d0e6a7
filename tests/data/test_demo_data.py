"""The demo's data: answers that cross between tokenizers the hard way, and nothing that leaks."""

from collections import Counter
from itertools import accumulate, pairwise

import pytest

from onceedit_jax.data.leakage import check_leaks
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import contradicting, demo_path, duplicates
from onceedit_jax.evaluation.questions import load_questions


@pytest.fixture(scope="module")
def edits():
    return load_records(demo_path("demo_edits.jsonl"))


def test_ten_edits_each_with_a_rephrase_and_unrelated_prompts(edits):
    assert len(edits) == 10
    assert all(edit.rephrase and edit.locality for edit in edits)
    assert not contradicting(edits)
    assert not duplicates(edits)


def test_every_subject_stands_in_its_prompt_as_written(edits):
    assert all(edit.subject and edit.subject in edit.prompt for edit in edits)


def test_no_two_questions_of_the_demo_are_the_same(edits):
    asked = [text for edit in edits for text in (edit.prompt, edit.rephrase)]
    asked += [pair.prompt for edit in edits for pair in edit.locality]
    assert len(set(map(normalise, asked))) == len(asked)


def test_unrelated_rows_and_reference_texts_hold_nothing_that_is_evaluated(edits):
    rows = load_unrelated(demo_path("demo_unrelated.json"))
    assert len(rows) == 120
    check_leaks(rows, edits)
    texts = load_unrelated(demo_path("reference_texts.json"))
    assert len(texts) == 60
    check_leaks(texts, edits)


@pytest.mark.slow
def test_six_answers_are_several_tokens_in_both_tokenizers_and_split_differently(edits):
    from onceedit_jax.text.tokenizer import load_tokenizer

    both = [load_tokenizer(name) for name in ("demo:smollm2-135m", "demo:gemma3-270m")]
    crossing = []
    for edit in edits:
        cuts = [answer_cuts(tokenizer, edit.prompt, edit.target) for tokenizer in both]
        if all(cuts) and cuts[0] != cuts[1]:
            crossing.append(edit.target)
    assert len(crossing) >= 6, crossing


def answer_cuts(tokenizer, prompt: str, target: str) -> set[int]:
    """Where tokens end inside an answer, in bytes from its end; empty for a single token."""
    tokens, start = tokenizer.encode_pair(prompt, target)
    lengths = [len(tokenizer.decode_bytes([token], continuation=True)) for token in tokens[start:]]
    ends = list(accumulate(lengths))
    assert len(ends) > 0 and all(a <= b for a, b in pairwise(ends))
    return {ends[-1] - end for end in ends[:-1]}


def test_each_edit_has_ten_questions_of_a_new_user(edits):
    probes = load_questions(demo_path("demo_questions.jsonl"), edits)
    assert Counter(probe.fact for probe in probes) == dict.fromkeys(range(10), 10)
    assert len({probe.prompt for probe in probes}) == 100
    for place, edit in enumerate(edits):
        own = [probe for probe in probes if probe.fact == place]
        assert Counter(probe.expects for probe in own) == {"new": 6, "unchanged": 4}
        # None is the edit's own prompt or rephrase letter by letter: people do not type so.
        assert not {edit.prompt, edit.rephrase} & {probe.prompt for probe in own}
