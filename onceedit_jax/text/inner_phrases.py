"""Finds phrases inside a question that stand for another thing: `the mayor of Vinterby`.

A question about such a phrase needs two facts: who that is, and what is asked of them. The phrases
are found by their form alone; whether one of them asks for a known fact is for others to say.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from onceedit_jax.text.asked_sentence import question_start
from onceedit_jax.text.questions import answered_by_yes_or_no
from onceedit_jax.text.subjects import Mention, Word, folded_words

LONGEST = 8  # words that a phrase has before and after its subject at most
_PRONOUNS = "that which who whom whose where"
_PREPOSITIONS = """
    about after against along among around as at before behind below beside between by during for
    from in inside into like near of off on onto over since through to toward towards under until
    upon via with within without
"""
_AUXILIARIES = "are can could did do does had has have is may might should was were will would"
_SMALL_WORDS = """
    a an and be been being but how if it its not or s shall so than the their then there these they
    this those what when why
"""
# What a question may say beside what it asks for: "Please tell me the name of", "What served as",
# and what is no question of its own: "the date of the coronation of".
_ASKING = """
    act acted acts answer based called currently date day describe edition entity explain found give
    hello hey hi i kind know known list located look me name named number officially one person
    please question quick responsible say serve served serves show size situated sort tell thing
    time title type up us want wonder write year you your
"""
_RELATIVE, _BEFORE_NAMES = frozenset(_PRONOUNS.split()), frozenset(_PREPOSITIONS.split())
_FUNCTION_WORDS = _RELATIVE | _BEFORE_NAMES | frozenset(f"{_AUXILIARIES} {_SMALL_WORDS}".split())
_SAYS_NOTHING = _FUNCTION_WORDS | frozenset(_ASKING.split())
_QUOTES = ("\"'“\u2018«„", "\"'”\u2019»“")
_POSSESSIVE = re.compile(r"['\u2019]s?\s+", re.IGNORECASE)
_CLAUSE_END = re.compile(r"[,;:.?!()\n]")
_QUESTION_END = re.compile(r"[?!\n]|<\|")


class InnerPhrase(NamedTuple):
    """A phrase of a text that names a subject and asks something of it.

    Attributes:
      start: of its first character.
      stop: after its last one.
      question: the question for what it stands for.
      within: whether the text asks for something else beside it.
      of_it: whether a noun says what is asked of it: "the capital of", "in which country is".
    """

    start: int
    stop: int
    question: str
    within: bool
    of_it: bool


def inner_phrases(text: str, mention: Mention) -> list[InnerPhrase]:
    """The phrases around a subject that may stand for something else.

    What belongs to the subject (`X's mayor`), and phrases that begin with "the" and end with the
    subject (`the mayor of X`) or with a clause about it (`the town where X was born`). A question
    that is answered by yes or no has none: it may ask for the fact itself.

    Args:
      text: a question.
      mention: where it names the subject.

    Returns:
      Those with one beginning follow each other, the latest beginning first.
    """
    words = folded_words(text)
    begin = question_start(text, mention.start)
    if answered_by_yes_or_no(text, mention):
        return []
    inside = [i for i, word in enumerate(words) if mention.start <= word.start < mention.stop]
    before = [word for word in words[: inside[0]] if word.start >= begin]
    after = words[inside[-1] + 1 :]
    name = _quoted(text, mention)
    mark = _POSSESSIVE.match(text, name[1])
    spans = (
        _owned(text, name, [word for word in after if word.start >= mark.end()])
        if mark
        else _described(text, name, before, after)
    )
    bare = text[mention.start : mention.stop]
    return [
        InnerPhrase(
            start,
            stop,
            f"What is {text[start : name[0]]}{bare}{text[name[1] : stop]}?",
            *_asks_more(text, begin, start, stop),
        )
        for start, stop in spans
    ]


def _quoted(text: str, mention: Mention) -> tuple[int, int]:
    """Where a subject stands, with the quotation marks around it and the bracket that ends it."""
    start, stop = mention.start, mention.stop
    if "(" in text[start:stop] and text[stop : stop + 1] == ")":
        stop += 1
    if start and text[start - 1] in _QUOTES[0] and text[stop : stop + 1] in _QUOTES[1]:
        return start - 1, stop + len(text[stop : stop + 1])
    return start, stop


def _clause_words(text: str, stop: int, after: Sequence[Word]) -> Iterator[Word]:
    """The words that follow a place in the same clause."""
    for word in after[:LONGEST]:
        if _CLAUSE_END.search(text, stop, word.start):
            return
        yield word


def _owned(text: str, name: tuple[int, int], after: Sequence[Word]) -> Iterator[tuple[int, int]]:
    """`X's mayor`, with one word more after another."""
    for word in _clause_words(text, name[1], after):
        if word.folded == "s":  # `X's mayor's`: of the mayor
            return
        if word.folded not in _FUNCTION_WORDS:
            yield name[0], word.stop


def _described(
    text: str, name: tuple[int, int], before: Sequence[Word], after: Sequence[Word]
) -> Iterator[tuple[int, int]]:
    """`the mayor of X`, `the town where X was born`: from each "the" on."""
    ends = [word.stop for word in _clause_words(text, name[1], after)]
    for at in range(len(before) - 1, max(len(before) - 1 - LONGEST, -1), -1):
        start = before[at].start
        if _CLAUSE_END.search(text, start, name[0]):
            return
        between = [word.folded for word in before[at + 1 :]]
        if between and between[-1] in ("the", "a", "an"):
            between.pop()
        if before[at].folded != "the" or not set(between) - _FUNCTION_WORDS:
            continue
        about_it = between[-1] in _RELATIVE  # `where X was born`, but `who founded X`
        if between[-1] in _BEFORE_NAMES or (not about_it and _RELATIVE & set(between)):
            yield start, name[1]
        else:  # a clause without a pronoun too: `the town X was named after`
            yield from ((start, stop) for stop in ends)


def _asks_more(text: str, begin: int, start: int, stop: int) -> tuple[bool, bool]:
    """Whether a question has a word beside a phrase that says what is asked, and a noun of it."""
    end = _QUESTION_END.search(text, stop)
    before = [word.folded for word in folded_words(text[begin:start])]
    after = [word.folded for word in folded_words(text[stop : end.start() if end else None])]
    if before[:1] == ["state"]:  # "State the capital of X."
        before = before[1:]
    says = [word not in _SAYS_NOTHING for word in before]
    chosen = any(a in ("which", "what") and noun for a, noun in zip(before, says[1:], strict=False))
    of_it = chosen or (any(says) and before[-1] in _BEFORE_NAMES | _RELATIVE)
    return bool(before) and not _SAYS_NOTHING.issuperset([*before, *after]), of_it
