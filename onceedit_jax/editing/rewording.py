"""Further wordings of the edits' questions, written by a language model at hand.

The bank of relations has wordings for the relations that it holds. Elsewhere a model that can write
puts an edit's question in other words, shown how by examples from the bank.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from onceedit_jax.data.leakage import Evaluated, evaluated_texts, without_evaluated
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord
from onceedit_jax.data.relations import SUBJECT, Relation, relation_bank
from onceedit_jax.text.chat import Message
from onceedit_jax.text.subjects import Subjects, folded_words

# From conversations, the user's turn last, to what the model says next.
Write = Callable[[Sequence[Sequence[Message]]], Sequence[str]]

SHOWN = 3  # examples in one prompt
LONGER = 2.0  # times as many words as the edit's prompt, and a few more, at most
USUAL = 5  # uses in the bank after which a word may begin a request or end an opening
# What a round asks for, and the field of a relation that shows it.
_ROUNDS = (
    ("questions", "Ask the same question in other words."),
    ("questions", "Ask the same question in other words."),
    ("requests", "Turn the question into a request."),
    ("questions", "Ask the same question in other words."),
    ("statements", "Begin the sentence that answers the question, and stop before the answer."),
    ("questions", "Ask the same question in other words."),
)
# Invented subjects of the examples, by kind.
_SUBJECTS = {
    "person": "Ada Quill",
    "place": "Norland",
    "work": "The Glass Orchard",
    "building": "Vinter Hall",
    "organisation": "the Harbour Trust",
}
_LABEL = re.compile(
    r"^(?:[-*\u2022]\s+|\d+[.)]\s+|(?:question|request|sentence|answer)\s*:\s*)+", re.IGNORECASE
)
_QUOTES = "\"'`\u201c\u201d\u2018\u2019 "


def reworded(
    write: Write,
    records: Sequence[EditRecord],
    *,
    count: int = len(_ROUNDS),
    seed: int = 0,
    evaluated: Sequence[EditRecord] = (),
) -> list[list[str]]:
    """Other wordings of each edit's prompt, as a model writes them, without those that are no use.

    A wording is kept if it names the subject as the record does, is a question, a request or the
    opening of a statement, does not say the answer, and is neither the edit's own prompt nor a
    question that is evaluated. An edit whose prompt does not hold its subject gets none.

    Args:
      write: the model.
      records: the edits.
      count: wordings that are asked for, each in another round with other examples.
      seed: chooses the examples.
      evaluated: further records whose questions must not be trained on.
    """
    questions = evaluated_texts([*records, *evaluated])
    places = [i for i, r in enumerate(records) if r.subject and r.subject in r.prompt]
    kept: list[list[str]] = [[] for _ in records]
    for number in range(count if places else 0):
        kind, asked = _ROUNDS[number % len(_ROUNDS)]
        shown = _examples(kind, np.random.default_rng([seed, number]))
        written = write([_conversation(asked, shown, records[i].prompt) for i in places])
        for i, text in zip(places, written, strict=True):
            line = _line(text)
            if is_wording(line, records[i], questions) and _is_new(line, kept[i]):
                kept[i].append(line)
    return kept


def is_wording(text: str, record: EditRecord, evaluated: Evaluated) -> bool:
    """Whether a text can be trained on as another wording of an edit's prompt."""
    assert record.subject
    if text.count(record.subject) != 1 or not _is_new(text, [record.prompt]):
        return False
    words, own = folded_words(text), folded_words(record.prompt)
    if len(words) > LONGER * len(own) + 4 or not _is_asked(text):
        return False
    answers = Subjects([[record.target, *record.true_answers]])
    if answers.find(text.replace(record.subject, "it")):
        return False
    return bool(without_evaluated([text], evaluated))


def as_examples(
    records: Sequence[EditRecord], wordings: Sequence[Sequence[str]]
) -> list[EditRecord]:
    """Wordings as the `examples` of `edit`: each edit with one of its wordings as its rephrase."""
    return [
        dataclasses.replace(record, rephrase=text, more_rephrases=())
        for record, texts in zip(records, wordings, strict=True)
        for text in texts
    ]


def as_text(conversation: Sequence[Message]) -> str:
    """A conversation as the plain text that a model without a chat template continues."""
    turns = [message["content"] for message in conversation]
    pairs = zip(turns[::2], [*turns[1::2], ""], strict=True)
    return "\n\n".join(f"{asked}\nIn other words: {told}".rstrip() for asked, told in pairs)


def _conversation(asked: str, shown: Sequence[tuple[str, str]], prompt: str) -> list[Message]:
    """The examples as earlier turns, and the edit's prompt as the last one."""
    turns: list[Message] = []
    for question, wording in shown:
        turns.append({"role": "user", "content": f"{asked}\n{question}"})
        turns.append({"role": "assistant", "content": wording})
    return [*turns, {"role": "user", "content": f"{asked}\n{prompt}"}]


def _examples(kind: str, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Questions of the bank, each with another wording of it."""
    able = _able()
    shown = []
    for place in rng.choice(len(able), SHOWN, replace=False).tolist():
        relation, subject = able[place]
        question, *others = relation.questions
        others = others if kind == "questions" else list(getattr(relation, kind))
        wording = others[int(rng.integers(len(others)))]
        shown.append((question.replace(SUBJECT, subject), wording.replace(SUBJECT, subject)))
    return shown


@cache
def _able() -> list[tuple[Relation, str]]:
    """The relations that can be examples, each with a subject of its kind."""
    return [
        (relation, _SUBJECTS[kinds[0]])
        for relation in relation_bank()
        if (kinds := sorted(relation.kinds & _SUBJECTS.keys())) and len(relation.questions) > 1
    ]


def _line(text: str) -> str:
    """The first line that is written, without a label, a bullet or quotation marks."""
    line = next(iter(text.strip().splitlines()), "")
    return _LABEL.sub("", line.strip(_QUOTES)).strip(_QUOTES)


def _is_new(text: str, known: Sequence[str]) -> bool:
    return normalise(text) not in {normalise(other) for other in known}


def _is_asked(text: str) -> bool:
    """Whether it is a question, a request, or an opening that an answer completes."""
    if text.endswith("?"):
        return True
    first, last = _usual_words()
    words = [word.folded for word in folded_words(text)]
    if text.endswith("."):
        return words[0] in first
    return words[-1] in last and text[-1].isalpha()


@cache
def _usual_words() -> tuple[frozenset[str], frozenset[str]]:
    """Words with which requests of the bank begin, and openings end."""
    bank = relation_bank()
    first = [text.split()[0] for relation in bank for text in relation.requests]
    last = [text.split()[-1] for relation in bank for text in relation.statements]
    return _frequent(first), _frequent(last)


def _frequent(words: Sequence[str]) -> frozenset[str]:
    return frozenset(word.casefold() for word, uses in Counter(words).items() if uses >= USUAL)
