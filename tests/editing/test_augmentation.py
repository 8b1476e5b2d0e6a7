"""What an edit is trained on: other wordings, near negatives, and nothing that is evaluated."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from onceedit_jax.data.leakage import digest, evaluated_texts, trained_on, without_evaluated
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow, strip_nq
from onceedit_jax.editing.augmentation import training_texts
from onceedit_jax.editing.batches import edit_row, epoch_batches
from onceedit_jax.editing.context_sentences import context_sentences
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.paraphrases import (
    after_sentences,
    learn_templates,
    paraphrases,
    swapped_prompts,
)
from onceedit_jax.editing.settings import EditSettings

EXAMPLES = [
    EditRecord("The tongue of Ada is", "French", rephrase="It rained. Ada speaks", subject="Ada"),
    EditRecord("The tongue of Sol is", "Welsh", rephrase="Sol speaks", subject="Sol"),
    EditRecord("The tongue of Kim is", "Dutch", rephrase="Kim, a native of", subject="Kim"),
    EditRecord("Without a subject", "x", rephrase="None at all"),
]
EDITS = [
    EditRecord(
        "The tongue of Mara is",
        "Greek",
        rephrase="Some words. Mara speaks",
        locality=(Pair("The tongue of Otto is", "German"),),
        subject="Mara",
    ),
    EditRecord("Who wrote The Glass Orchard?", "Sol Marrow", subject="The Glass Orchard"),
]
UNRELATED = [UnrelatedRow(f"How far is the harbour from bridge {n}?") for n in range(12)]
SETTINGS = EditSettings(paraphrase_ratio=2, context_share=0.5, held_back=1, epochs=4)


def test_templates_are_what_is_left_without_the_subject_the_most_frequent_first():
    known = learn_templates(EXAMPLES)
    found = paraphrases(EDITS[0], known)
    assert found == ["Mara speaks", "Mara, a native of"]
    back = paraphrases(EditRecord("Mara speaks", "Greek", subject="Mara"), known)
    assert back == ["The tongue of Mara is"]
    assert paraphrases(EDITS[1], known) == []
    assert paraphrases(replace(EDITS[0], subject=None), known) == []


def test_a_sentence_goes_before_a_share_of_the_prompts():
    prompts = [f"prompt {i}" for i in range(400)]
    found = after_sentences(prompts, ["One.", "Two."], 0.25, np.random.default_rng(0))
    begun = [text for text in found if text.startswith(("One. ", "Two. "))]
    assert 60 < len(begun) < 140
    assert all(text.endswith(prompt) for text, prompt in zip(found, prompts, strict=True))
    assert after_sentences(prompts, [], 1.0, np.random.default_rng(0)) == prompts


def test_negatives_come_in_the_same_wordings_as_positives():
    rows = swapped_prompts(
        EDITS[:1], UNRELATED, 12, np.random.default_rng(0), templates=learn_templates(EXAMPLES)
    )
    assert {row.prompt.endswith("speaks") for row in rows} == {True, False}
    assert not any("Mara" in row.prompt for row in rows)


def test_sentences_are_the_models_own_and_depend_on_the_seed(tiny_model):
    model, tokenizer = tiny_model()

    def written(seed):
        return context_sentences(model, tokenizer, 5, np.random.default_rng(seed))

    assert written(0) == written(0)
    assert all(text.endswith((".", "!", "?")) and text[0].isupper() for text in written(0))


def test_an_evaluated_question_counts_with_whatever_it_begins_with():
    asked = evaluated_texts(EDITS)
    texts = [
        "Mara  speaks.",
        "The tongue of Otto is",
        "some words. mara speaks",
        "words. mara speaks",
    ]
    assert without_evaluated([*texts, "Mara, a native of", "speaks"], asked) == [
        "Mara, a native of",
        "speaks",
    ]


def test_trained_questions_are_found_by_their_digests():
    marks = [digest("nq question: The tongue of Otto is?"), digest("anything")]
    assert trained_on(EDITS, marks) == ["The tongue of Otto is"]
    assert trained_on(EDITS, [digest("Mara speaks")]) == ["Some words. Mara speaks"]
    assert trained_on(EDITS, []) == []


def test_every_epoch_holds_all_rows_and_another_one_of_each_pool(tiny_model):
    tokenizer = tiny_model()[1]
    rows = [edit_row(record, tokenizer, max_tokens=64) for record in EDITS]
    pool = [
        edit_row(replace(EDITS[0], prompt=p), tokenizer, max_tokens=64)
        for p in ("a", "b c", "d e f")
    ]

    def seen(epoch):
        (batch,) = epoch_batches(rows, SETTINGS.resolved(len(rows)), epoch, pools=[pool])
        used = np.asarray(batch.gate_mask) > 0
        return {
            tuple(np.asarray(batch.tokens)[np.asarray(batch.segments) == i].tolist())
            for i in np.flatnonzero(used)
        }

    every = [seen(epoch) for epoch in range(12)]
    assert all({row.tokens for row in rows} < found and len(found) == 3 for found in every)
    assert {row.tokens for row in pool} <= set.union(*every)


def test_an_artifact_lists_what_it_was_trained_on_by_digest(tiny_model):
    model, tokenizer = tiny_model()
    settings = replace(SETTINGS, epochs=1)
    edited = edit(model, tokenizer, EDITS, UNRELATED, settings, examples=EXAMPLES)
    texts = training_texts(model, tokenizer, EDITS, UNRELATED, settings, examples=EXAMPLES)
    assert edited.info.trained_texts == tuple(sorted({digest(text) for text in texts.all()}))
    assert trained_on(EDITS, edited.info.trained_texts) == []


def sha(text):
    return hashlib.sha256(normalise(strip_nq(text)).encode()).hexdigest()


def endings(text):
    """Hashes of a text and of all that it ends with, down to two words."""
    words = normalise(strip_nq(text)).split(" ")
    return {sha(" ".join(words[start:])) for start in range(max(1, len(words) - 1))}


@pytest.mark.parametrize(
    ("edits", "examples", "unrelated"),
    [
        ("counterfact_edit.json", "counterfact_train.json", "counterfact_train.json"),
        ("zsre_eval.json", "zsre_train.json", "zsre_unrelated_nq.json"),
    ],
)
def test_no_evaluated_question_of_the_real_data_is_trained_on(
    tiny_model, data_sets, edits, examples, unrelated
):
    """By the hashes of whole questions, of what they end with, and of what the rows end with."""
    model, tokenizer = tiny_model()
    records = load_records(data_sets / edits, limit=200)
    later = load_records(data_sets / edits)
    rows = load_unrelated(data_sets / unrelated)
    clean = [row for row in rows if row.prompt not in {p.prompt for r in later for p in r.locality}]
    texts = training_texts(
        model,
        tokenizer,
        records,
        clean,
        SETTINGS,
        examples=load_records(data_sets / examples),
        evaluated=later,
    )
    asked = {
        sha(question)
        for record in later
        for question in (
            record.rephrase or "",
            *(pair.prompt for pair in (*record.locality, *record.portability)),
        )
        if question
    }
    # A rephrase of one edit may be another edit's own prompt (ZsRE has 21 of these).
    asked -= set.union(*(endings(record.prompt) for record in records))
    trained = set.union(*(endings(text) for text in texts.all()))
    assert len(trained) > 200
    assert not trained & asked
    for i, pool in texts.paraphrases:
        others = endings(records[i].rephrase or "") - {sha(records[i].prompt)}
        assert not others & {sha(pair.prompt) for pair in pool}
