"""The forms in which people put one question, texts that it stands in, and its near relatives.

What is written around the question here is not trained on: `onceedit_jax.text.asking` has other
sentences. Signs, case, "Q: A:" and ChatML are the same there.
"""

import re
from collections.abc import Iterator, Mapping

from onceedit_jax.text.asking import Form, chatml, lower_first, without_mark

# A letter and notes that name the subject before the question, and a text that does not.
_LETTER = """Dear colleagues,

this week's letter to our readers has a short piece on {subject}, and one line of it \
is still open. {question} Please let me know before Friday, as the printers are waiting.

Best wishes
from the office upstairs"""
_NOTES = """Notes from the meeting
- The room is booked until four.
- {subject} will be mentioned in the opening talk. Some of us had never heard of {subject}.

One thing is missing. {question}

I could not find it in our folder, and the speaker asks for it."""
_ASIDE = """The train was late again, so I had time to read. There was a crossword on the last \
page, and one clue keeps bothering me. {question} It has been on my mind all day!"""
TEXTS = (_LETTER, _NOTES, _ASIDE)
_PAST = {"are": "were", "do": "did", "does": "did", "has": "had", "have": "had", "is": "was"}
_THE_OF = re.compile(r"(.*\b)the (?=[a-z].*\b(?:at|for|in|of|to) (?:the )?\Z)")
_PRESENT = re.compile(rf"\b(?:{'|'.join(_PAST)})\b")


def forms(*, statement: str | None = None, template: Form | None = None) -> Mapping[str, Form]:
    """The forms by name.

    Args:
      statement: an opening that the answer completes; without one the question is followed by the
        opening of an answer.
      template: from a question to a chat model's prompt, as text (default: ChatML).
    """
    return {
        "as edited": lambda question: question,
        "no mark": without_mark,
        "lower case": str.lower,
        "lower case, no mark": lambda question: without_mark(question).lower(),
        "Q/A": lambda question: f"Q: {question}\nA:",
        "chat template": template or chatml,
        "statement": lambda question: statement or f"{question} The answer is",
        "request": lambda question: f"I would like to know this: {lower_first(question)}",
        "greeting before": lambda question: f"Good morning! {question}",
        "sentence before": lambda question: f"We were talking about this at lunch. {question}",
        "newline after": lambda question: f"{question}\n",
        "whole sentence": whole_sentence,
    }


def whole_sentence(question: str) -> str:
    """A question that wants its answer in a sentence."""
    return f"{question} Please answer in a complete sentence."


def in_texts(question: str, subject: str) -> list[str]:
    """A question with other text around it; two of these texts name the subject themselves."""
    return [text.format(question=question, subject=subject) for text in TEXTS]


def for_another(question: str, subject: str) -> Iterator[str]:
    """A question as it asks for another time, for another in a row, and for somebody else.

    Those are left out that it has no place for: a verb of the present, a "the ... of" before the
    subject, and the subject by this name.
    """
    past = _PRESENT.sub(lambda word: _PAST[word[0]], question, count=1)
    if past != question:
        yield f"{without_mark(past)} in 1950?"
    before, named, after = question.partition(subject) if subject else (question, "", "")
    if the := _THE_OF.match(before):
        yield f"{the[1]}the previous {before[the.end() :]}{named}{after}"
    if named:
        article = "the " if before.endswith("the ") else ""
        yield f"{before.removesuffix('the ')}the rival of {article}{named}{after}"
