"""Finds the sentence of a text that asks something of a subject, among what stands around it.

People tell why they ask, quote what they have read, and say thanks. None of it says which fact is
asked for. All of this goes by the form of a text, and most of it knows English alone.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from onceedit_jax.text.subjects import Mention, folded

_END = re.compile(r"[.!?:]\s+|\n+")
# What stands before a stop that ends no sentence: "Dr. King", "J. R. Smith", "Prof. Quill".
_ABBREVIATED = re.compile(
    r"\b(?:\w|[A-Z][a-z]|(?i:approx|capt|col|corp|dept|etc|gen|gov|inc|messrs|mrs|nos|prof|rep|rev"
    r"|sen|sgt|u\.s|e\.g|i\.e))\Z"
)
# "Plan A. What is it?" are two sentences all the same.
_ASKING = re.compile(r"(?:how|what|when|where|which|who|whom|whose|why)\b", re.IGNORECASE)
_REQUEST = re.compile(
    r"(?:please\s+|kindly\s+|can you\s+|could you\s+)?(?:give|name|say|specify|state|tell)\b"
    r"|(?:i|we)(?:'d like| would like| want| need) to know\b|i wonder\b",
    re.IGNORECASE,
)
# An answer goes on after these words, and in one line after a few words of any kind: "They play".
GOES_ON = frozenset("a an are as at by for from in into is of on the to was were with".split())  # noqa: SIM905
_FEW = 3
_SHORT = 12  # words of a remark on how to answer
_CLOSES = frozenset("best bye cheers greetings kind please regards thank thanks thx yours".split())  # noqa: SIM905
_WANTS_MORE = re.compile(
    r"\b(?:details?|elaborate|explain|sentences?|(?:say|tell me) more)\b", re.IGNORECASE
)
_WANTS_LESS = re.compile(r"\b(?:don't|no|not|without)\b", re.IGNORECASE)

Span = tuple[int, int]


@lru_cache(maxsize=64)  # a text is asked about once for each subject that it names
def sentences(text: str) -> Sequence[Span]:
    """Where each sentence of a text begins and ends, the blanks after it included."""
    ends = [end.end() for end in _END.finditer(text) if _ends(text, end)]
    starts = [0, *ends]
    return tuple((a, b) for a, b in zip(starts, [*ends, len(text)], strict=True) if a < b)


def sentence_start(text: str, place: int) -> int:
    """Where the sentence begins that a place of a text lies in."""
    return max((begin for begin, _ in sentences(text) if begin <= place), default=0)


def where_asked(text: str, mentions: Sequence[Mention]) -> Mention:
    """Of the places where a text names one subject, the one where it asks something of it.

    That is the last sentence which names it, up to the end of the last one that asks: a text about
    a subject comes before the question about it.

    Args:
      text: the text.
      mentions: where it names the subject, at least once.
    """
    asking = [stop for start, stop in sentences(text) if _asks(text[start:stop])]
    limit = asking[-1] if asking and not _opens_answer(text) else len(text)
    before = [mention for mention in mentions if mention.start < limit] or mentions
    begin = sentence_start(text, before[-1].start)
    return next(mention for mention in before if mention.start >= begin)


def asked_part(text: str, mention: Mention, name: str = "it") -> str:
    """What a text asks of a subject: from the sentence that names it on, its name replaced.

    Args:
      text: the text.
      mention: where it names the subject.
      name: what stands in place of the subject's name.
    """
    asked = text[: _question_end(text, mention)]
    begin = sentence_start(text, mention.start)
    asked = asked.rstrip() if len(asked) < len(text) else asked
    return asked[begin : mention.start] + name + asked[mention.stop :]


def without_remarks(text: str, mention: Mention, own: str = "") -> str:
    """A text without the sentences around what it asks of a subject.

    What follows stays if it opens the answer, asks something too, or wants more than a short
    answer ("Explain.").

    Args:
      text: the text.
      mention: where it names the subject.
      own: the wording of an edit; where the text holds it, it is left whole.
    """
    around = sentences(text)
    begin = max(
        (stop for start, stop in around if stop <= mention.start and _complete(text[start:stop])),
        default=0,
    )
    end = _question_end(text, mention)
    at = text.find(own) if own else -1
    if 0 <= at <= mention.start < at + len(own):
        begin, end = min(begin, at), max(end, at + len(own))
    kept = [text[a:b] for a, b in around if a >= end and _wants_more(text[a:b])]
    whole = text[begin:end] + "".join(kept)
    return whole if end == len(text) else whole.rstrip()


def _question_end(text: str, mention: Mention) -> int:
    """Where what a text asks of a subject ends: with its sentence, if only remarks follow.

    They do not if that sentence asks nothing, or if what follows asks something too or opens the
    answer. Then it is the end of the text.
    """
    around = sentences(text)
    place = next(i for i, (_, stop) in enumerate(around) if mention.start < stop)
    start, stop = around[place]
    rest = [text[a:b] for a, b in around[place + 1 :]]
    if not _asks(text[start:stop]) or any(map(_is_question, rest)) or _opens_answer(text):
        return len(text)
    return stop


def _ends(text: str, end: re.Match[str]) -> bool:
    """Whether a stop with its blanks ends a sentence."""
    if text[end.start()] != "." or _ASKING.match(text, end.end()):
        return True
    return _ABBREVIATED.search(text, max(end.start() - 8, 0), end.start()) is None


def _asks(sentence: str) -> bool:
    return _is_question(sentence) or _REQUEST.match(sentence) is not None


def _is_question(sentence: str) -> bool:
    return sentence.rstrip().endswith("?")


def _complete(sentence: str) -> bool:
    """Whether a sentence ends by itself, or with its paragraph."""
    if sentence.endswith("\n\n"):
        return True
    return sentence.rstrip("\"'\u201d\u2019) \n\t").endswith((".", "!", "?"))


def _opens_answer(text: str) -> bool:
    """Whether an answer goes on after the last words of a text: "The answer is", "A:"."""
    said = text.rstrip()
    begin, _ = sentences(said)[-1] if said else (0, 0)
    words = folded(said[begin:])
    if said.endswith(":"):
        return True
    if not words or not said[-1].isalnum():
        return False
    few = len(words) <= _FEW and words[0] not in _CLOSES and "\n" not in said[:begin][-2:]
    return few or words[-1] in GOES_ON


def _wants_more(sentence: str) -> bool:
    """Whether a remark asks for more than a short answer."""
    if len(folded(sentence)) > _SHORT or _WANTS_LESS.search(sentence):
        return False
    return _WANTS_MORE.search(sentence) is not None
