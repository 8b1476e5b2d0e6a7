"""Finds the sentence of a text that asks something of a subject, among what stands around it.

People tell why they ask, quote what they have read, and say thanks; programs put marks and labels
around a question. None of it says which fact is asked for. All of this goes by the form of a text,
and some of it knows English alone.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from onceedit_jax.text.subjects import Mention, folded

_END = re.compile(r"[.!?]\s+|:[*_]*\s+|\n+")
# What stands before a stop that ends no sentence: "Dr. King", "J. R. Smith", "Prof. Quill".
_ABBREVIATED = re.compile(
    r"\b(?:\w|[A-Z][a-z]|(?i:approx|capt|col|corp|dept|etc|gen|gov|inc|messrs|mrs|nos|prof|rep|rev"
    r"|sen|sgt|u\.s|e\.g|i\.e))\Z"
)
# "Plan A. What is it?" are two sentences all the same.
_ASKING = re.compile(
    r"\s*(?:(?:and|at|by|for|from|in|of|on|so|to|with)\s+)?"
    r"(?:how|what|when|where|which|who|whom|whose|why)\b",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"\s*(?:(?:(?:can|could|would) you\s+)?(?:kindly\s+|please\s+|pls\s+)?"
    r"(?:give|name|say|specify|state|tell)\b"
    r"|(?:i|we)(?:'d like| would like| want| need) to know\b|i wonder\b)",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"\s*(?:dear|good (?:afternoon|day|evening|morning)|greetings|hello|hey|hi|ok|okay|so|well)"
    r"(?: (?:again|all|everybody|everyone|folks|team|there))?(?:,? please)?(?:\s*[,!]\s*|\s+)",
    re.IGNORECASE,
)
_MARKUP = r"<[^<>\s]*>|\[/?[A-Z]+\]"  # of prompts for chat models
# A question mark with nothing after it but marks, as in '{"question": "Who is it?"}'.
_MARK = re.compile(rf"\?(?:{_MARKUP}|[^\w\s?<\[]|\s)*\Z")
_LEADING = re.compile(rf"(?:{_MARKUP}|[\s*_#>])+")
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "(": ")"}
# An answer goes on after these words: "Who Framed Roger Rabbit was directed by".
GOES_ON = frozenset("a an are as at by for from in into is of on the to was were with".split())  # noqa: SIM905
_SHORT = 12  # words of a remark on how to answer
_WANTS_MORE = re.compile(
    r"\b(?:details?|elaborate|explain|sentences?|(?:say|tell me) more)\b", re.IGNORECASE
)
_WANTS_LESS = re.compile(r"\b(?:don't|no|not|without)\b", re.IGNORECASE)

Span = tuple[int, int]


@lru_cache(maxsize=64)  # a text is looked at once for each subject that it names
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
    limit = _last_question_end(text)
    before = [mention for mention in mentions if mention.start < limit] or mentions
    begin = sentence_start(text, before[-1].start)
    return next(mention for mention in before if mention.start >= begin)


def asked_part(text: str, mention: Mention, name: str = "it") -> str:
    """What a text asks of a subject, its name replaced.

    It is the sentence that names the subject, if it asks and no other question follows; otherwise
    the text from this sentence on.

    Args:
      text: the text.
      mention: where it names the subject.
      name: what stands in place of the subject's name.
    """
    begin, end = _asked(text, mention) or (sentence_start(text, mention.start), len(text))
    before, after = text[begin : mention.start], text[mention.stop : end]
    if _is_loud(text[begin:end]):
        before, after = before.lower(), after.lower()
    return f"{_one_blank(before)}{name}{_one_blank(after)}"


def question_of(text: str, mention: Mention, own: str = "") -> str:
    """A text without what stands around its question about a subject.

    Where the question cannot be told from the rest, the text is left as it is. A remark that wants
    more than a short answer ("Explain.") stays.

    Args:
      text: the text.
      mention: where it names the subject.
      own: the wording of an edit: where the text holds it, this is the question.
    """
    at = text.find(own) if own else -1
    if 0 <= at <= mention.start < at + len(own):
        question, end = own, at + len(own)
    elif span := _asked(text, mention):
        question, end = _one_blank(text[slice(*span)]), span[1]
        question = question.lower() if _is_loud(question) else question
    else:
        return text
    more = [text[a:b].strip() for a, b in sentences(text) if a >= end and _wants_more(text[a:b])]
    return " ".join([question, *more])


@lru_cache(maxsize=64)
def _last_question_end(text: str) -> int:
    """Where the last sentence that asks ends; the end of the text if an answer goes on there."""
    asking = [stop for start, stop in sentences(text) if _asks(text[start:stop])]
    return asking[-1] if asking and not _goes_on(text) else len(text)


def _asked(text: str, mention: Mention) -> Span | None:
    """The question or request that names a subject; None if it is none, or others follow."""
    around = sentences(text)
    place = next(i for i, (_, stop) in enumerate(around) if mention.start < stop)
    start, stop = around[place]
    sentence, rest = text[start:stop], around[place + 1 :]
    if not _asks(sentence) or any(_MARK.search(text[a:b]) for a, b in rest):
        return None
    mark = _MARK.search(sentence)
    if mark and start + mark.start() == mention.stop and _goes_on(text):
        return None  # the mark is that of a title: "Who Is It? was written by"
    end = start + (mark.start() + 1 if mark else len(sentence.rstrip()))
    for before in (_LEADING, _GREETING):
        found = before.match(text, start, mention.start)
        start = found.end() if found else start
    if mark and _QUOTES.get(text[start]) == text[end : end + 1] and start < mention.start:
        start += 1
    return start, max(end, mention.stop)


def _ends(text: str, end: re.Match[str]) -> bool:
    """Whether a stop with its blanks ends a sentence."""
    if text[end.start()] != "." or _ASKING.match(text, end.end()):
        return True
    return _ABBREVIATED.search(text, max(end.start() - 8, 0), end.start()) is None


def _asks(sentence: str) -> bool:
    """Whether a sentence is a question or a request."""
    if greeting := _GREETING.match(sentence):
        sentence = sentence[greeting.end() :]
    if _MARK.search(sentence) or _REQUEST.match(sentence):
        return True
    return _ASKING.match(sentence) is not None and not _goes_on(sentence)


def _goes_on(text: str) -> bool:
    """Whether an answer goes on after the last word of a text."""
    words = text.rsplit(maxsplit=1)
    return bool(words) and words[-1].lower() in GOES_ON


def _is_loud(text: str) -> bool:
    """Whether all letters of a text of several words are capitals."""
    return text.isupper() and len(text.split()) > 1


def _one_blank(text: str) -> str:
    return re.sub(r"[^\S\n]+", " ", text)


def _wants_more(sentence: str) -> bool:
    """Whether a remark asks for more than a short answer."""
    if len(folded(sentence)) > _SHORT or _WANTS_LESS.search(sentence):
        return False
    return _WANTS_MORE.search(sentence) is not None
