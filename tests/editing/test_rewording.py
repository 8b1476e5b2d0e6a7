"""Wordings that a model writes of an edit's question: what it is shown, and what is kept."""

from dataclasses import replace

import pytest

from onceedit_jax.data.leakage import digest, evaluated_texts
from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.editing.augmentation import training_texts
from onceedit_jax.editing.rewording import as_examples, as_text, is_wording, reworded
from onceedit_jax.editing.settings import EditSettings

RECORD = EditRecord(
    "What is the capital of Norland?",
    "Vinterby",
    rephrase="Norland has which capital?",
    locality=(Pair("Which sea is near Norland?", "None"),),
    subject="Norland",
    true_answers=("Old Town",),
)


class Scripted:
    """A writer with a list of lines, one a round; `asked` lists its conversations."""

    def __init__(self, *lines):
        self.lines, self.asked = list(lines), []

    def __call__(self, conversations):
        line = self.lines[len(self.asked) % len(self.lines)]
        self.asked.append(list(conversations))
        return [line] * len(conversations)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Which city is the capital of Norland?", True),
        ("Tell me the capital of Norland.", True),
        ("The capital of Norland is", True),
        ("what is the capital of Norland", False),  # the edit's own prompt
        ("Norland has which capital?", False),  # it is evaluated
        ("In short, Norland has which capital?", False),  # behind other words, too
        ("Which sea is near Norland?", False),
        ("Which city is the capital of norland?", False),  # not the subject's spelling
        ("Which city is its capital?", False),
        ("Is Norland's capital the capital of Norland?", False),
        ("Is Vinterby the capital of Norland?", False),  # the new answer
        ("Is it old town that leads Norland?", False),  # the true one
        ("The capital of Norland is a city.", False),  # says something
        ("The capital of Norland, a country", False),
        ("Which city" + " of all the many cities" * 4 + " is the capital of Norland?", False),
    ],
)
def test_what_is_another_wording(text, kept):
    assert is_wording(text, RECORD, evaluated_texts([RECORD])) == kept


def test_an_answer_inside_the_subject_is_no_leak():
    record = EditRecord("Who leads the Vinterby Trust?", "Vinterby", subject="Vinterby Trust")
    nothing = evaluated_texts([])
    assert is_wording("Which person leads the Vinterby Trust?", record, nothing)
    assert not is_wording("Does Vinterby lead the Vinterby Trust?", record, nothing)


def test_lines_are_tidied_and_none_is_kept_twice():
    writer = Scripted(
        '  "Which city is the capital of Norland?"\nIt is Vinterby.',
        "Question: which city is the capital of Norland?",
        "- Tell me the capital of Norland.",
        "",
    )
    (kept,) = reworded(writer, [RECORD])
    assert kept == ["Which city is the capital of Norland?", "Tell me the capital of Norland."]


def test_a_round_shows_other_examples_and_the_same_ones_again_for_the_same_seed():
    runs = [Scripted("x"), Scripted("x"), Scripted("x")]
    for writer, seed in zip(runs, (0, 0, 1), strict=True):
        reworded(writer, [RECORD], count=3, seed=seed)
    assert runs[0].asked == runs[1].asked != runs[2].asked
    texts = [as_text(conversation) for (conversation,) in runs[0].asked]
    assert len(set(texts)) == 3
    for text in texts:
        assert text.endswith("What is the capital of Norland?\nIn other words:")
        assert text.count("In other words: ") == 3 and "{" not in text


def test_an_edit_that_does_not_name_its_subject_is_not_asked_about():
    writer = Scripted("Which city is the capital of Norland?")
    records = [EditRecord("Who leads it?", "Ada"), replace(RECORD, prompt="Who?"), RECORD]
    assert [len(texts) for texts in reworded(writer, records)] == [0, 0, 1]
    assert all(len(asked) == 1 for asked in writer.asked)
    assert reworded(writer, records[:2]) == [[], []]


def test_wordings_are_trained_on_as_examples_and_evaluated_ones_never(tiny_model):
    model, tokenizer = tiny_model()
    other = EditRecord("?", "?", rephrase="Tell me the capital of Norland.")
    lines = ("Which city is the capital of Norland?", other.rephrase)
    wordings = reworded(Scripted(*lines), [RECORD], evaluated=[other])
    assert wordings == [[lines[0]]]
    settings = EditSettings(unrelated_ratio=0, held_back=0, swapped_ratio=0, context_share=0)
    # Even wordings that nobody has looked through leak nothing.
    texts = training_texts(
        model, tokenizer, [RECORD], [], settings, examples=as_examples([RECORD], [lines]),
        evaluated=[other],
    )  # fmt: skip
    trained = {digest(text) for text in texts.all()}
    assert digest(lines[0]) in trained and digest(other.rephrase) not in trained
