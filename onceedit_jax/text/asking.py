"""Ways of putting a question: signs, case, openings and closings that people use around it.

The edit's question is trained in these forms, and the relation head learns that they change
nothing. Forms that are measured are in `onceedit_jax.evaluation.forms`, with other sentences.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np

from onceedit_jax.text.asked_sentence import GOES_ON, sentence_start
from onceedit_jax.text.subjects import folded_words

Form = Callable[[str], str]

_FUNCTION_WORDS = frozenset(
    """
    a an are at by can could did do does for from has have how in into is of on the through to under
    until was were what when where which who whom whose why will with would
    """.split()  # noqa: SIM905 (a list of words is easier to read so)
)

_ASKING = frozenset(
    """
    are can could did do does had has have how is should was were what when where which who whom
    whose why will would
    """.split()  # noqa: SIM905
)
_BEFORE = frozenset(
    """
    and at by for from hello hey hi in into of ok okay on please pls plz so through to under until
    with
    """.split()  # noqa: SIM905
)


def without_mark(question: str) -> str:
    """A question without the signs at its end."""
    return question.rstrip("?!.。？ ") or question  # noqa: RUF001 (full-width signs are meant)


def lacks_mark(text: str) -> bool:
    """Whether a text ends with a question without its mark.

    Only English questions are known: they begin with a word that asks, and do not end with one that
    an answer goes on after, as "Who Framed Roger Rabbit was directed by" does.
    """
    text = text.rstrip()
    words = [word.folded for word in folded_words(text[sentence_start(text, len(text)) :])]
    if len(words) < 2 or not text[-1].isalnum() or words[-1] in GOES_ON:
        return False
    return words[0] in _ASKING or (words[0] in _BEFORE and words[1] in _ASKING)


def with_mark(text: str) -> str:
    """A question with a mark, before the blanks at its end."""
    said = text.rstrip()
    return f"{said}?{text[len(said) :]}"


def lower_first(question: str) -> str:
    """A question that goes on a sentence: its first letter is small, unless it begins a name."""
    first = re.match(r"\w+", question)
    begins_name = first is None or first.group().lower() not in _FUNCTION_WORDS
    return question if begins_name else question[:1].lower() + question[1:]


def chatml(question: str) -> str:
    """A question as a ChatML prompt, spelled out as text."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


_OPENINGS = (
    "Hi! {0}", "Hello, {1}", "Hey, {1}", "Quick question: {1}", "Please answer: {0}",
    "Question: {0}", "Tell me: {1}", "Please tell me {2}.", "Do you know {2}?",
    "Can you tell me {2}?", "I wonder {2}.", "I want to know {2}.",
    "Could you say {2}?", "Next question. {0}", "Thanks! {0}", "OK, {1}",
)  # fmt: skip
_CLOSINGS = (
    "{0}\n", "{0}\n\n", "{0} ", "{0} Answer:", "{0}\nAnswer:", "{0} Answer briefly.", "{0} Thanks.",
    "Q: {0}\nA:", "Q: {0} A:", "Question: {0}\nAnswer:", "question: {3} answer:",
    "{0} The answer is", "{0} It is",
)  # fmt: skip
_WHOLE_SENTENCE = (
    "{0} Answer in a full sentence.", "{0} Reply with one sentence.", "Answer in a sentence: {0}",
    "In one whole sentence, {1}", "{0} Use a full sentence.", "{0} Explain.", "{0} Tell me more.",
)  # fmt: skip


def short_forms(question: str) -> list[list[str]]:
    """The forms that ask for a short answer, by kind.

    Returns:
      Forms that differ in signs and case only, the question itself first; those with an opening,
      with a closing, and as a chat.
    """
    plain = [question, without_mark(question), question.lower(), without_mark(question).lower()]
    fillings = _fillings(question)
    opened = [form.format(*fillings) for form in _OPENINGS]
    closed = [form.format(*fillings) for form in _CLOSINGS]
    return [
        list(dict.fromkeys(plain)),
        [*opened, *(text.lower() for text in opened[::3])],
        [*closed, *(text.lower() for text in closed[::3])],
        [chatml(question), chatml(without_mark(question)), f"User: {question}\nAssistant:"],
    ]


def sentence_forms(question: str) -> list[str]:
    """A question in every form that asks for a whole sentence, or for more."""
    fillings = _fillings(question)
    return [form.format(*fillings) for form in _WHOLE_SENTENCE]


def drawn_form(kinds: Sequence[Sequence[str]], rng: np.random.Generator) -> str:
    """One form; the first kind is drawn as often as all others together."""
    first, *others = kinds
    chosen = first if rng.random() < 0.5 else others[int(rng.integers(len(others)))]
    return chosen[int(rng.integers(len(chosen)))]


def _fillings(question: str) -> tuple[str, str, str, str]:
    """What the numbers in a form stand for."""
    lower = lower_first(question)
    return question, lower, without_mark(lower), question.lower()
