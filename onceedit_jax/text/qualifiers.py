"""Qualifiers: words by which a question asks for another fact than it does without them.

*Who was the previous mayor of Vinterby?* and *Who was the mayor of Vinterby in 1950?* have the
subject and the relation of *Who is the mayor of Vinterby?*, and *Where was the wife of Ada Quill
born?* those of *Where was Ada Quill born?*. They ask for other answers all the same. Such words are
known by their form, in English; `qualifier_words` has them.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import NamedTuple

from onceedit_jax.text.asked_sentence import LATER_ASIDE, Span, masked, sentence_around
from onceedit_jax.text.inner_phrases import inner_phrases
from onceedit_jax.text.qualifier_words import (
    ANOTHER_TIME,
    ASIDE,
    ASKS,
    BESIDE,
    CENTURY,
    DURING,
    EVENT,
    KINDS,
    MENTIONS,
    NOT_NOW,
    NOW,
    ORDINAL,
    ORDINALS,
    PATTERNS,
    YEAR,
)
from onceedit_jax.text.questions import answered_by_yes_or_no
from onceedit_jax.text.subjects import Mention, folded

_MEANT = {word: kind for kind, forms in BESIDE.items() for word in forms.split("|")}
_NUMBERED = re.compile(r"(\d{1,3})(?:st|nd|rd|th)")
_OWNED = re.compile(r"['\u2019]s?\b", re.IGNORECASE)
_OF = re.compile(
    r"\b(?:behind|for|of|to|that|which|who)\s+(?:\w+s\s+)?(?:an?\s+|the\s+)?\W*\Z", re.IGNORECASE
)
# A question of these words alone beside "the wife of X" asks who she is.
_WHO = frozenset(
    """
    a an and are can current currently do give hello hey hi is know me name named names now of
    please s says tell the today was were what which who whom whose woman man person you
    """.split()  # noqa: SIM905
)
_IDIOM = re.compile(
    r"\b(?:mother tongue|sister (?:cities|city|ship|species)|student body)\b", re.IGNORECASE
)
_MODULI = (31, 29)  # of a year's bits: two of them tell all years apart
WORDS = 2 + len(_MODULI)  # numbers that hold a set: its kinds, its years and its ordinals


class Qualifiers(NamedTuple):
    """The qualifiers of a question about a subject.

    Words with one meaning are one qualifier: "former" is "previous". A year is one beside a verb
    that does not speak of today, and "another time" stands for times without a year. "Second" is
    "no. 2". Somebody around the subject of whom something is asked is one by what they are to it,
    as "spouse".

    Attributes:
      asked: by what it asks for another fact than it would without them.
      mentioned: these, and all that it may have in other words. A question that asks *who* without
        any of them may be for anybody whom another one describes.
      timeless: whether it says nothing of today and names no year, so that another question may
        name its year: "Where was Ada Quill born?".
    """

    asked: frozenset[str]
    mentioned: frozenset[str]
    timeless: bool

    def apart(self, other: "Qualifiers") -> frozenset[str]:
        """What tells it from another question for the same: what only one of them has."""
        return self._missing_in(other) | other._missing_in(self)

    def _missing_in(self, other: "Qualifiers") -> frozenset[str]:
        missing = self.asked - other.mentioned
        return missing - years(missing) if other.timeless else missing

    @property
    def bits(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both sets as bits of `WORDS` int32 each: every bit of a subset is one of the set."""
        free = _EVERY_YEAR if self.timeless else (0,) * WORDS
        mentioned = tuple(a | b for a, b in zip(_bits(self.mentioned), free, strict=True))
        return _bits(self.asked), mentioned


def qualifiers(text: str, mention: Mention) -> Qualifiers:
    """The qualifiers of a question; one that is answered by yes or no asks with none.

    Args:
      text: the question.
      mention: where it names the subject.
    """
    plain = masked(text, [mention])
    begin, end = sentence_around(plain, mention.start)
    sentence, asked = plain[begin:end], frozenset[str]()
    if not answered_by_yes_or_no(text, mention):
        asked = frozenset(_asked(_clause(sentence))).union(_beside(text, mention, (begin, end)))
    mentioned = asked | mentioned_qualifiers(sentence)
    timeless = NOW.search(sentence) is None and not years(mentioned)
    return Qualifiers(asked, mentioned, timeless)


def mentioned_qualifiers(sentence: str) -> frozenset[str]:
    """All qualifiers that a sentence has words of, wherever they stand."""
    words = set(folded(sentence))
    said = {kind for kind, forms in MENTIONS.items() if words & forms}
    if words & {"who", "whom", "whose"} and not said & BESIDE.keys():
        said |= BESIDE.keys()
    named = re.findall(r"\b(?:1\d|20)\d\d(?=s?\b)", sentence)
    ordinals = filter(None, map(_ordinal, words))
    return frozenset([*said, *named, *_centuries(sentence), *ordinals])


def years(kinds: Iterable[str]) -> frozenset[str]:
    """Those of the qualifiers that are years; of a century the first one."""
    return frozenset(filter(str.isdecimal, kinds))


def times(kinds: Iterable[str]) -> frozenset[str]:
    """Those of the qualifiers that name a time."""
    return frozenset(kind for kind in kinds if kind == ANOTHER_TIME or kind.isdecimal())


def _clause(sentence: str) -> str:
    """A sentence without what people say of themselves before and after their question."""
    asks = ASKS.search(sentence)
    if asks and ASIDE.search(sentence, 0, asks.start()):
        sentence = sentence[asks.start() :]
    return LATER_ASIDE.sub("", sentence)


def _asked(clause: str) -> Iterator[str]:
    """What a clause asks with, but for what is beside its subject."""
    yield from (kind for kind, pattern in PATTERNS if pattern.search(clause))
    yield from filter(None, (_ordinal(found[1].lower()) for found in ORDINAL.finditer(clause)))
    if not EVENT.search(clause):
        yield from _centuries(clause)
        if NOT_NOW.search(clause):
            yield from YEAR.findall(clause)
            if DURING.search(clause):
                yield ANOTHER_TIME


def _ordinal(word: str) -> str | None:
    """What "second" and "2nd" stand for, and other ordinals; None for another word."""
    numbered = _NUMBERED.fullmatch(word)
    number = int(numbered[1]) if numbered else ORDINALS.get(word)
    return None if number is None else f"no. {number}"


def _centuries(sentence: str) -> list[str]:
    """The first year of each century that is named."""
    return [f"{int(number) - 1:02d}00" for number in CENTURY.findall(sentence)]


def _beside(text: str, mention: Mention, sentence: Span) -> Iterator[str]:
    """What is asked about, if the subject alone describes it: `the wife of X`, `X's rival`.

    "The composer X" is X, and *Who is the wife of X?* asks about X.
    """
    if _IDIOM.search(text, mention.start):
        return
    phrases = inner_phrases(text, mention)
    nearest = takewhile(lambda phrase: phrase.start == phrases[0].start, phrases)
    for phrase in nearest:
        before, after = text[phrase.start : mention.start], text[mention.stop : phrase.stop]
        owned = _OWNED.match(after)
        if owned or _OF.search(before):
            words = folded(after if owned else before)
            around = text[sentence[0] : phrase.start], text[phrase.stop : sentence[1]]
            if not _WHO.issuperset(word for part in around for word in folded(part)):
                yield from (_MEANT[word] for word in words if word in _MEANT)


def _bits(kinds: Iterable[str]) -> tuple[int, ...]:
    words = [0] * WORDS
    for kind in kinds:
        if kind in KINDS:
            words[0] |= 1 << KINDS.index(kind)
        elif kind.isdecimal():
            for word, modulus in enumerate(_MODULI, 1):
                words[word] |= 1 << int(kind) % modulus
        else:
            words[-1] |= 1 << int(kind.removeprefix("no. ")) % 31
    return tuple(words)


_EVERY_YEAR = (0, *((1 << modulus) - 1 for modulus in _MODULI), 0)
