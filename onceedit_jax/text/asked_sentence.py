"""Finds the question about a subject in a text, among what stands around it.

People tell why they ask, quote what they have read, and say thanks; programs put marks and labels
around a question. None of it says which fact is asked for. Where another question or a task stands
beside it, nothing is left out. All of this goes by the form of a text, and most of it knows English
alone.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from onceedit_jax.text.subjects import Mention, folded

# The last one is that of a text in JSON.
_END = re.compile(r"[.!?\uff1f\u061f]\s+|:[*_]*\s+|\n+|\?[\"'](?=\s*[,}\]])")
# What stands before a stop that ends no sentence: "Dr. King", "J. R. Smith", "Prof. Quill".
_ABBREVIATED = re.compile(
    r"(?<!['\u2019])\b(?:\w|[A-Z][a-z]|(?i:approx|capt|col|corp|dept|etc|gen|gov|inc|messrs|mrs|nos"
    r"|prof|rep|rev|sen|sgt|u\.s|e\.g|i\.e))\Z"
)
_BEFORE = r"\s*(?:(?:and|at|by|for|from|in|of|on|so|to|with)\s+)?"
_QUESTION_WORD = re.compile(
    rf"{_BEFORE}(?:how|what|when|where|which|who|whom|whose|why)\b", re.IGNORECASE
)
# What goes on after a line that ends inside a question: a few lines up to its mark, none of which
# begins a question itself.
_TO_MARK = re.compile(
    rf"(?:(?!{_QUESTION_WORD.pattern})[^.!?:\n\uff1f\u061f]+(?:\n|(?=[?\uff1f\u061f]))){{1,4}}"
    r"[?\uff1f\u061f]",
    re.IGNORECASE,
)
# A sentence without a mark that begins with such a word need be no question: "When Ada was born, it
# rained" and "What I like about her" are none.
_UNMARKED = re.compile(
    rf"{_BEFORE}(?:(?:how|which|who|whom|whose|what(?!\s+(?:he|i|she|they|we|you)\b))\b"
    r"|(?:when|where|why)(?:'?s|\s+(?:are|can|could|did|do|does|had|has|have|is|should|was|were|will"
    r"|would))\b)[^,]*\Z",
    re.IGNORECASE,
)
_REQUEST = re.compile(
    r"\s*(?:(?:also|then|now)\s+)?"
    r"(?:(?:(?:can|could|would) you\s+)?(?:kindly\s+|please\s+|pls\s+)?"
    r"(?:give|name|say|specify|state|tell)\b"
    r"|(?:i|we)(?:'d like| would like| want| need) to know\b|i wonder\b)",
    re.IGNORECASE,
)
# A task is done with a text, and not answered by a fact.
_TASK = re.compile(
    r"\s*(?:(?:also|and|anyway|finally|instead|next|now|then)\b,?\s+)?"
    r"(?:(?:can|could|would) you\s+)?(?:kindly\s+|please\s+|pls\s+)?"
    r"(?:(?:do not|don't|never) answer|classify|compose|continue|correct(?! me)|count|create|draft"
    r"|fix|ignore|imagine|improve|invent|paraphrase|pretend|proofread|repeat|rephrase|reword|rewrite"
    r"|shorten|sing|spell|summari[sz]e|translate|write(?!(?: me| us)? (?:back|soon)))\b",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"\s*(?:(?:dear|good (?:afternoon|day|evening|morning)|greetings|hello|hey|hi)"
    r"(?: \w+){0,2}(?:,? please)?\s*[,!]\s*|(?:hello|hey|hi|ok|okay|so|well)(?:\s*[,!]\s*|\s+))",
    re.IGNORECASE,
)
_MARKUP = r"<[^<>\s]*>|\[/?[A-Z]+\]"  # of prompts for chat models
# A question mark with nothing after it but marks, as in '{"question": "Who is it?"}'.
_MARK = re.compile(rf"[?\uff1f\u061f](?:{_MARKUP}|[^\w\s?<\[]|\s)*\Z")
_LEADING = re.compile(
    rf"(?:{_MARKUP}|[\s*_#>]|(?:[-\u2022]|\d+[.)])\s|{_GREETING.pattern})+", re.IGNORECASE
)
# What people say of themselves before their question: "My boss forgot it, so who is the mayor?",
# "My aunt asks who the mayor is". A request of their own ("I wonder ...") is a part of it.
_ASIDE = re.compile(
    r"(?:(?:[^,?]{0,200}?\b(?:i|i'm|i\u2019m|me|my|our|sorry|us|we)\b[^?]{0,200}?"
    r"|as of (?:now|today)|by the way|currently|first of all|for the \w+ time|nowadays|right now"
    r"|today),\s*(?:(?:and|but|or|so)\s+)?"
    r"|(?!(?:how|i|we|wh\w+)\b)[^?]{0,200}?\b(?P<asks>ask(?:ed|s)?|wonder(?:ed|s)?"
    r"|(?:wants?|wanted|likes?) to (?:hear|know))(?: (?:from )?(?:me|us|you))?:?\s+)"
    rf"(?=(?:{_QUESTION_WORD.pattern}|{_REQUEST.pattern}))",
    re.IGNORECASE,
)
LATER_ASIDE = re.compile(
    r",\s+(?:as|because|but|i|i'm|i\u2019m|my|our|since|so|we)\b[^?]{0,200}(?=[?\uff1f\u061f]?\s*\Z)",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u2018": "\u2019", "(": ")"}
# Stops that belong to the name before them: "Rescue Me! was made by".
_NAME_STOPS = re.compile(
    r"[.!]+(?=\s+(?!(?:how|wh[a-z]+)\b)[a-z])"
    r"|\?(?=\s+(?:are|at|by|did|do|does|from|had|has|in|is|of|on|open|very|was|were|with)\b)"
)
# An answer goes on after these words: "Who Framed Roger Rabbit was directed by".
GOES_ON = frozenset("a an are as at by for from in into is of on the to was were with".split())  # noqa: SIM905
_FULL_LINE = 30  # letters from which a line may end because it is full
_SHORT = 12  # words of a remark on how to answer
_HOW = re.compile(r"\b(?:answer|brief|briefly|just|only|reply|respond|short|word)\b", re.IGNORECASE)
_WANTS_MORE = re.compile(
    r"\b(?:details?|elaborate|explain|long|longer|paragraphs?|sentences?|(?:say|tell me) more)\b",
    re.IGNORECASE,
)
_WANTS_LESS = re.compile(r"\b(?:don't|no|not|without)\b", re.IGNORECASE)

Span = tuple[int, int]


@lru_cache(maxsize=64)  # a text is looked at once for each subject that it names
def sentences(text: str) -> Sequence[Span]:
    """Where each sentence of a text begins and ends, the blanks after it included."""
    starts = [0]
    for end in _END.finditer(text):
        if _ends(text, end) and not _is_wrapped(text[starts[-1] : end.start()], text, end):
            starts.append(end.end())
    return tuple((a, b) for a, b in zip(starts, [*starts[1:], len(text)], strict=True) if a < b)


def sentence_start(text: str, place: int) -> int:
    """Where the sentence begins that a place of a text lies in."""
    return max((begin for begin, _ in sentences(text) if begin <= place), default=0)


def question_start(text: str, place: int) -> int:
    """Where the sentence of a place of a text begins, after a greeting that it opens with."""
    begin = sentence_start(text, place)
    greeting = _GREETING.match(text, begin, place)
    return greeting.end() if greeting else begin


def sentence_around(text: str, place: int) -> Span:
    """Where the sentence begins and ends that a place of a text lies in."""
    return next(span for span in sentences(text) if place < span[1])


def masked(text: str, mentions: Sequence[Mention]) -> str:
    """A text with letters in the place of names, whose stops and words say nothing about it.

    Args:
      text: the text.
      mentions: where it names subjects, in its order.
    """
    pieces, at = [], 0
    for mention in mentions:
        stop = _name_stop(text, mention)
        pieces += [text[at : mention.start], "x" * (stop - mention.start)]
        at = stop
    return "".join([*pieces, text[at:]])


def where_asked(text: str, mentions: Sequence[Mention]) -> Mention:
    """Of the places where a text names one subject, the one where it asks something of it.

    That is the last sentence which names it, up to the end of the last one that asks: a text about
    a subject comes before the question about it.

    Args:
      text: the text, `masked`.
      mentions: where it names the subject, at least once.
    """
    limit = _last_question_end(text)
    before = [mention for mention in mentions if mention.start < limit] or mentions
    begin = sentence_start(text, before[-1].start)
    return next(mention for mention in before if mention.start >= begin)


def is_in_task(text: str, mention: Mention) -> bool:
    """Whether something is to be done with what a text says of a subject: "Translate: ..."."""
    plain = masked(text, [mention])
    around, begin = sentences(plain), _begin(plain, mention)
    _, stop = around[_place(plain, mention)]
    return any(_is_task(text[a:b]) for a, b in around if a == begin or a >= stop)


def is_asked(text: str, mention: Mention) -> bool:
    """Whether the question about a subject can be told from the rest of a text, `masked`."""
    return _asked(text, mention) is not None


def asked_part(text: str, mention: Mention, name: str = "it") -> str:
    """What a text asks of a subject, its name replaced.

    It is the question, or else the text from the sentence that names the subject on, with a task
    that stands before it.

    Args:
      text: the text.
      mention: where it names the subject.
      name: what stands in place of the subject's name.
    """
    plain = masked(text, [mention])
    question = _asked(plain, mention)
    begin, end = question or (_begin(plain, mention), len(text))
    before, after = text[begin : mention.start], text[_name_stop(text, mention) : end]
    if _is_loud(text[begin:end]):
        before, after = before.lower(), after.lower()
    blanks = r"\s+" if question else r"[^\S\n]+"
    return name.join(re.sub(blanks, " ", each) for each in (before, after))


def question_of(text: str, mention: Mention, own: str = "") -> str:
    """A text without what stands around its question about a subject.

    Where the question cannot be told from the rest, the text is left as it is. A remark that wants
    more than a short answer ("Explain.") stays.

    Args:
      text: the text.
      mention: where it names the subject.
      own: the wording of an edit: if the text holds it, up to the end of a sentence, it is the
        question.
    """
    plain = masked(text, [mention])
    around, question = sentences(plain)[_place(plain, mention) :], None
    for _, end in around:
        said = text[:end].rstrip()
        if own and said.endswith(own) and len(said) - len(own) <= mention.start:
            question, stop = None if _more_follows(plain, end) else own, end
            break
    if question is None:
        if (span := _asked(plain, mention)) is None:
            return text
        question, stop = re.sub(r"\s+", " ", text[slice(*span)]), around[0][1]
        question = question.lower() if _is_loud(question) else question
    remarks = [text[a:b].strip() for a, b in around if a >= stop]
    return " ".join([question, *filter(_wants_more, remarks)])


def _name_stop(text: str, mention: Mention) -> int:
    """Where a name ends, with the stops that belong to it."""
    stops = _NAME_STOPS.match(text, mention.stop)
    return stops.end() if stops else mention.stop


@lru_cache(maxsize=64)
def _last_question_end(text: str) -> int:
    """Where the last sentence that asks ends; the end of the text if an answer goes on there."""
    asking = [stop for start, stop in sentences(text) if _asks(text[start:stop])]
    return asking[-1] if asking and not _goes_on(text) else len(text)


def _place(text: str, mention: Mention) -> int:
    """The number of the sentence that names a subject."""
    return next(i for i, (_, stop) in enumerate(sentences(text)) if mention.start < stop)


def _begin(text: str, mention: Mention) -> int:
    """Where the sentence begins that names a subject, or a task that stands before it."""
    around, place = sentences(text), _place(text, mention)
    before = around[max(place - 1, 0)]
    return before[0] if _is_task(text[slice(*before)]) else around[place][0]


def _asked(text: str, mention: Mention) -> Span | None:
    """The question or request that names a subject; None if it is none, or does not stand alone."""
    around, place = sentences(text), _place(text, mention)
    start, stop = around[place]
    sentence = text[start:stop]
    if not _asks(sentence) or _begin(text, mention) < start or _more_follows(text, stop):
        return None
    mark = _MARK.search(sentence)
    end = start + (mark.start() + 1 if mark else len(sentence.rstrip()))
    for said_before in (_LEADING, _ASIDE):
        if found := said_before.match(text, start, mention.start):
            start = found.end()
    if mark and _QUOTES.get(text[start]) == text[end : end + 1] and start < mention.start:
        start += 1
    if said_after := LATER_ASIDE.search(text, mention.stop, end):
        end = said_after.start()
    return start, max(end, mention.stop)


def _more_follows(text: str, place: int) -> bool:
    """Whether a text asks or wants more from a place on, or leaves its end to the answer."""
    rest = [text[start:stop] for start, stop in sentences(text) if start >= place]
    if not rest:
        return False
    return _goes_on(text) or any(
        _is_task(each) or (_asks(each) and not _says_how(each)) for each in rest
    )


def _ends(text: str, end: re.Match[str]) -> bool:
    """Whether a stop with its blanks ends a sentence."""
    # "Plan A. What is it?" are two sentences in spite of the single letter.
    if text[end.start()] != "." or _QUESTION_WORD.match(text, end.end()):
        return True
    return _ABBREVIATED.search(text, max(end.start() - 8, 0), end.start()) is None


def _is_wrapped(line: str, text: str, end: re.Match[str]) -> bool:
    """Whether a line of a text ends inside a question, as after "What is the capital"."""
    if end[0] != "\n" or not re.search(r"[\w,]\s*\Z", line):
        return False
    word = re.compile(r"\w+").match(text, end.end())
    if word is None:
        return False
    is_full = len(line.rpartition("\n")[2]) >= _FULL_LINE and word[0].islower()
    if not (is_full or word[0] in GOES_ON or _goes_on(line)):
        return False
    return _begins_question(line) and _TO_MARK.match(text, end.end()) is not None


def _begins_question(sentence: str) -> bool:
    begun = _LEADING.match(sentence)
    place = begun.end() if begun else 0
    return any(each.match(sentence, place) for each in (_QUESTION_WORD, _REQUEST))


def _asks(sentence: str) -> bool:
    """Whether a sentence is a question or a request."""
    if greeting := _GREETING.match(sentence):
        sentence = sentence[greeting.end() :]
    if aside := _ASIDE.match(sentence):
        if aside["asks"]:
            return True
        sentence = sentence[aside.end() :]
    sentence = LATER_ASIDE.sub("", sentence)
    asks = _MARK.search(sentence) or _REQUEST.match(sentence) or _UNMARKED.match(sentence)
    return asks is not None


def _is_task(sentence: str) -> bool:
    return _TASK.match(sentence) is not None and not _wants_more(sentence)


def _goes_on(text: str) -> bool:
    """Whether an answer goes on after the last word of a text."""
    words = text.rsplit(maxsplit=1)
    return bool(words) and words[-1].lower() in GOES_ON


def _is_loud(text: str) -> bool:
    """Whether all letters of a text of several words are capitals."""
    return text.isupper() and len(text.split()) > 1


def _says_how(sentence: str) -> bool:
    """Whether a request, as "Give only the name", is about how to answer."""
    return len(folded(sentence)) <= _SHORT and _HOW.search(sentence) is not None


def _wants_more(sentence: str) -> bool:
    """Whether a remark asks for more than a short answer."""
    if len(folded(sentence)) > _SHORT or _WANTS_LESS.search(sentence):
        return False
    return _WANTS_MORE.search(sentence) is not None
