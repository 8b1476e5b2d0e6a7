"""Words by which a question asks for another fact than it does without them.

*Who was the previous mayor of Vinterby?* and *Who was the mayor of Vinterby in 1950?* have the
subject and the relation of *Who is the mayor of Vinterby?*, and *Where was the wife of Ada Quill
born?* those of *Where was Ada Quill born?*. They ask for other answers all the same. Such words are
known by their form, in English.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import NamedTuple

from onceedit_jax.text.asked_sentence import masked, sentence_around
from onceedit_jax.text.inner_phrases import inner_phrases
from onceedit_jax.text.questions import answered_by_yes_or_no
from onceedit_jax.text.subjects import Mention, folded

ANOTHER_TIME = "another time"
# Which of several is meant, by the word that stands for all that mean the same.
_ORDER = {
    "previous": "former|outgoing|penultimate|preceding|previous|prior",
    "first": "1st|earliest|first|initial",
    "next": "future|incoming|next|upcoming",
    "last": "final|last",
    "other": "another|else|other|others",
    "deputy": "acting|deputy|interim|vice",
}
_ORDINALS = "second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_NUMBER_OF = {word: f"no. {n}" for n, word in enumerate(_ORDINALS.split(), 2)}
_NUMBERED = re.compile(r"(\d{1,3})(?:st|nd|rd|th)")
# People around a subject, by what they are to it.
_PEOPLE = {
    "spouse": "boyfriend|girlfriend|husband|partner|spouse|widow|widower|wife",
    "parent": "dad|father|mom|mother|mum|parents",
    "child": "child|children|daughter|daughters|heir|kid|kids|son|sons",
    "sibling": "brother|brothers|sibling|siblings|sister|sisters",
    "relative": "aunt|cousin|granddaughter|grandfather|grandmother|grandson|nephew|niece|uncle",
    "leader": "boss|captain|ceo|chief|coach|conductor|king|leader|manager|mayor|minister|president"
    "|queen",
    "maker": "author|composer|creator|designer|director|founder|founders|inventor|writer",
    "holder": "owner|predecessor|successor",
    "friend": "colleague|enemy|friend|friends|mentor|neighbor|neighbour|rival|teacher",
}
# Other words by which a question mentions a qualifier.
_ALSO = {
    "previous": "before|formerly|old|once|previously|used",
    "first": "debut|given|inaugural|maiden|premiere|premiered",
    "last": "ending|latest|newest|recent",
    "other": "alias|also|alternative",
    ANOTHER_TIME: "ago|before|during|former|formerly|historical|old|once|past|previous|previously"
    "|used",
    "not": "never|not|t",
    "spouse": "marriage|married|marry",
    "leader": "chair|chairman|chairperson|chaired|chairs|commanded|executive|governor|head|headed"
    "|heads|lead|leads|led|manages|rector|ruled|ruler|rules|runs",
    "maker": "architect|built|by|composed|created|designed|developed|developer|directed|established"
    "|founded|invented|made|manufactured|manufacturer|manufactures|painted|produced|producer"
    "|produces|published|publisher|publishes|wrote|written",
    "holder": "belong|belonged|belongs|held|holds|owned|owns|replaced|succeeded",
}  # fmt: skip
_KINDS = (*_ORDER, ANOTHER_TIME, "not", *_PEOPLE)
_MENTIONED = {
    kind: frozenset([*_ORDER.get(kind, "").split("|"), *_PEOPLE.get(kind, "").split("|")])
    | frozenset(_ALSO.get(kind, "").split("|"))
    for kind in _KINDS
}
_MEANT = {word: kind for kind, forms in _PEOPLE.items() for word in forms.split("|")}

# What one of several is asked for: "Who was the first mayor?", but not "Where was the play first
# performed?", "the First World War" and "the first to go".
_ASKED = (
    r"(?:(?:^\W*|\b(?:about|are|be|became|been|give|is|know|list|me|name|of|was|were"
    r"|wh(?:at|o)['\u2019]?s)\s+)(?:an?|her|his|its|the|their|\w+['\u2019]s?)\s+(?:very\s+)?"
    r"|\b(?:all|any|list|name)\s+|\b(?:what|where|which|who|whom)\s+(?=(?:else|other)\b))"
    r"(?!(?-i:[A-Z]\w*\s+[A-Z][a-z]))"
)
# Not of one who has the subject's own name: "Where was the former president Ada Quill born?", whose
# name is masked.
_NOT_ITSELF = r"(?!\s+(?:\w+\s+)?(?!(?i:at|by|for|from|in|of|to|with)\b)\w+\s+x{2,}\b)"
_NO_THING = (
    r"(?!\s+(?:aid|class|hand|language|lady|names?|resting|tongue|years?|(?:\w+\s+)?to)\b"
    r"|\s+(?:party|place|time(?! period))\b(?!\s+of\b))"
)
_ONE_OF_SEVERAL = {
    kind: re.compile(
        rf"(?i:{_ASKED}(?:{forms})\b){_NOT_ITSELF}"
        + (_NO_THING if kind in ("first", "last", "other") else "")
    )
    for kind, forms in _ORDER.items()
}
_ORDINAL = re.compile(
    rf"(?i:{_ASKED}({'|'.join(_NUMBER_OF)}|\d{{1,3}}(?:st|nd|rd|th))\b){_NOT_ITSELF}{_NO_THING}"
)
_ANYWHERE = {
    "previous": re.compile(r"\bex-\w", re.IGNORECASE),
    "next": re.compile(r"\bwill (?:be|become|follow|replace|succeed)\b|-elect\b", re.IGNORECASE),
    "other": re.compile(
        r"\b(?:apart from|besides|except|other than) (?!(?:it|that|this)\b)", re.IGNORECASE
    ),
    "not": re.compile(
        r"\A(?:\w+,\s*)?\W*(?:what|where|which|whom?)\b[^,(]*\b(?:are|did|do|does|had|has|have|is|was"
        r"|were)(?:n['\u2019]t|(?:\s+\w+){0,2}\s+(?:never|no longer|not))\b",
        re.IGNORECASE,
    ),
    ANOTHER_TIME: re.compile(
        r"\b(?:centur(?:ies|y)|decades?|months?|weeks?|years?) ago\b"
        r"|(?<!\bthe )(?<!['\u2019]s )\blast (?:century|decade|month|week|year)\b"
        r"|(?<!\bare )(?<!\bis )(?<!\bwas )\bused to (?:be|have|live|own|play|run)\b"
        r"|\b(?:at (?:that|the) time(?! of\b)|back then|in the (?:future|past)|in those days)\b"
        r"|\b(?:formerly|previously)\b"
        r"|\A[^,]*\bbefore(?: (?:h(?:er|im)|it|that|them|this))?\W*\Z",
        re.IGNORECASE,
    ),
}
_MONTH = "january|february|march|april|may|june|july|august|september|october|november|december"
_YEAR = re.compile(
    r"\b(?:after|around|before|between|by|during|from|in|(?<!as )of|on|since|till|until)\s+"
    rf"(?:the\s+|year\s+|early\s+|late\s+|mid[\s-]|\d{{1,2}}\s+|(?:{_MONTH})\s+(?:\d{{1,2}},\s+)?)*"
    r"((?:1\d|20)\d\d)s?\b",
    re.IGNORECASE,
)
_CENTURY = re.compile(r"\b(\d\d?)(?:st|nd|rd|th)[\s-]century\b", re.IGNORECASE)
_DURING = re.compile(r"\bduring\b(?! (?:what|which)\b)", re.IGNORECASE)
# An answer of today may be asked for with a year, but not in these tenses.
_NOT_NOW = re.compile(
    r"(?<!\bi )(?<!\bwe )\b(?:did|had|was|were|will|would)\b(?! you\b)", re.IGNORECASE
)
_NOW = re.compile(r"\b(?:are|does|do|has|have|is)\b|['\u2019]s\b", re.IGNORECASE)
# What happens once: the year says when, and asks for nothing else.
_EVENT = re.compile(
    r"\b(?:born|built|bought|composed|created|designed|died|die|directed|elected|established|found(?:ed)?"
    r"|happen(?:ed)?|held|invented|killed|made|married|opened|painted|performed|published|recorded"
    r"|released|won|win|written|wrote)\b",
    re.IGNORECASE,
)
_OWNED = re.compile(r"['\u2019]s?\b", re.IGNORECASE)
_OF = re.compile(r"\b(?:behind|for|of|to)\s+(?:an?\s+|the\s+)?\W*\Z", re.IGNORECASE)
# One of these signs is in every question that asks with a qualifier.
_SIGN = re.compile(
    rf"\d|n['\u2019]t\b|\bex-|-elect\b"
    rf"|\b(?:{'|'.join([*_ORDER.values(), *_NUMBER_OF, *_PEOPLE.values()])}"
    r"|ago|apart|before|besides|during|except|formerly|future|never|no|not|past|previously|then"
    r"|those|time|used|will)\b",
    re.IGNORECASE,
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
      timeless: whether it says nothing of today, so that another question may name its time:
        "Where was Ada Quill born?".
    """

    asked: frozenset[str]
    mentioned: frozenset[str]
    timeless: bool

    def apart(self, other: "Qualifiers") -> frozenset[str]:
        """What tells it from another question for the same: what only one of them has."""
        return self._missing_in(other) | other._missing_in(self)

    def _missing_in(self, other: "Qualifiers") -> frozenset[str]:
        missing = self.asked - other.mentioned
        return missing - times(missing) if other.timeless else missing

    @property
    def bits(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Both sets as bits of `WORDS` int32 each: every bit of a subset is one of the set."""
        free = _EVERY_TIME if self.timeless else (0,) * WORDS
        mentioned = tuple(a | b for a, b in zip(_bits(self.mentioned), free, strict=True))
        return _bits(self.asked), mentioned


def qualifiers(text: str, mention: Mention) -> Qualifiers:
    """The qualifiers of a question; one that is answered by yes or no asks with none.

    Args:
      text: the question.
      mention: where it names the subject.
    """
    sentence = sentence_around(masked(text, [mention]), mention.start)
    timeless = _NOW.search(sentence) is None
    asked = frozenset[str]()
    if _SIGN.search(sentence) and not answered_by_yes_or_no(text, mention):
        asked = frozenset(_asked(sentence)).union(_people(text, mention))
    return Qualifiers(asked, asked | mentioned_qualifiers(sentence), timeless)


def mentioned_qualifiers(sentence: str) -> frozenset[str]:
    """All qualifiers that a sentence has words of, wherever they stand."""
    words = set(folded(sentence))
    said = {kind for kind, forms in _MENTIONED.items() if words & forms}
    if words & {"who", "whom", "whose"} and not said & _PEOPLE.keys():
        said |= _PEOPLE.keys()
    years = re.findall(r"\b(?:1\d|20)\d\d(?=s?\b)", sentence)
    ordinals = filter(None, map(_ordinal, words))
    return frozenset([*said, *years, *_centuries(sentence), *ordinals])


def times(kinds: Iterable[str]) -> frozenset[str]:
    """Those of the qualifiers that name a time."""
    return frozenset(kind for kind in kinds if kind == ANOTHER_TIME or kind.isdecimal())


def _asked(sentence: str) -> Iterator[str]:
    """What a sentence asks with, people aside."""
    for patterns in (_ONE_OF_SEVERAL, _ANYWHERE):
        yield from (kind for kind, pattern in patterns.items() if pattern.search(sentence))
    for found in _ORDINAL.finditer(sentence):
        yield _ordinal(found[1].lower()) or ""
    if not _EVENT.search(sentence):
        yield from _centuries(sentence)
        if _NOT_NOW.search(sentence):
            yield from _YEAR.findall(sentence)
            if _DURING.search(sentence):
                yield ANOTHER_TIME


def _ordinal(word: str) -> str | None:
    """What "second" and "2nd" stand for, and other ordinals; None for another word."""
    numbered = _NUMBERED.fullmatch(word)
    return f"no. {int(numbered[1])}" if numbered else _NUMBER_OF.get(word)


def _centuries(sentence: str) -> list[str]:
    """The first year of each century that is named."""
    return [f"{int(number) - 1:02d}00" for number in _CENTURY.findall(sentence)]


def _people(text: str, mention: Mention) -> Iterator[str]:
    """Who is asked about, if they are described by the subject alone: `the wife of X`, `X's wife`.

    "The composer X" is X.
    """
    phrases = inner_phrases(text, mention)
    nearest = takewhile(lambda phrase: phrase.start == phrases[0].start, phrases)
    for phrase in nearest:
        before, after = text[phrase.start : mention.start], text[mention.stop : phrase.stop]
        owned = _OWNED.match(after)
        if phrase.within and (owned or _OF.search(before)):
            words = folded(after if owned else before)
            yield from (_MEANT[word] for word in words if word in _MEANT)


def _bits(kinds: Iterable[str]) -> tuple[int, ...]:
    words = [0] * WORDS
    for kind in kinds:
        if kind in _KINDS:
            words[0] |= 1 << _KINDS.index(kind)
        elif kind.isdecimal():
            for word, modulus in enumerate(_MODULI, 1):
                words[word] |= 1 << int(kind) % modulus
        else:
            words[-1] |= 1 << int(kind.removeprefix("no. ")) % 31
    return tuple(words)


_EVERY_TIME = (_bits([ANOTHER_TIME])[0], *((1 << modulus) - 1 for modulus in _MODULI), 0)
