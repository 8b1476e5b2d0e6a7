"""Words by which a question asks for another fact than it does without them.

*Who was the previous mayor of Vinterby?* and *Who was the mayor of Vinterby in 1950?* have the
subject and the relation of *Who is the mayor of Vinterby?*, and *Where was the wife of Ada Quill
born?* those of *Where was Ada Quill born?*. They ask for other answers all the same. Such words are
known by their form, in English.
"""

import re
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from onceedit_jax.text.asked_sentence import masked, sentence_around
from onceedit_jax.text.inner_phrases import inner_phrases
from onceedit_jax.text.questions import answered_by_yes_or_no
from onceedit_jax.text.subjects import Mention, folded

# Which of several is meant, by the word that stands for all that mean the same.
_ORDER = {
    "previous": "former|outgoing|preceding|previous|prior",
    "first": "earliest|first|initial",
    "next": "future|incoming|next|upcoming",
    "last": "final|last",
    "other": "another|else|other|others",
    **{n: n for n in "second third fourth fifth sixth seventh eighth ninth tenth".split()},  # noqa: SIM905
}
# What such a word belongs to is asked for: "Who was the first mayor?", but not "Where was the play
# first performed?".
_ASKED = (
    r"(?:(?:^\W*|\b(?:about|are|be|became|been|give|is|know|list|me|name|of|was|were"
    r"|wh(?:at|o)['\u2019]?s)\s+)(?:an?|her|his|its|the|their|\w+['\u2019]s?)\s+"
    r"|\b(?:what|where|which|who|whom)\s+(?=(?:else|other)\b))"
)
# "The First World War" is a name, and a first name a thing.
_NO_NAME = (
    r"(?!\s+[A-Z][a-z]"
    r"|\s+(?:aid|class|hand|language|lady|names?|party|place|time(?! period))\b(?!\s+of\b)"
    r"|\s+years?\b)"
)
_SAID = [
    *((kind, rf"(?i:{_ASKED}(?:{forms})\b){_NO_NAME}") for kind, forms in _ORDER.items()),
    ("previous", r"(?i)\bex-\w"),
    ("other", r"(?i)\b(?:apart from|besides|except|other than)\b"),
    (
        "not",
        r"(?i)\A\W*wh.*\b(?:are|did|do|does|had|has|have|is|was|were)"
        r"(?:n['\u2019]t|(?:\s+\S+){0,2}\s+(?:never|not))\b",
    ),
    (
        "another time",
        r"(?i)\b(?:centur(?:ies|y)|decades?|months?|weeks?|years?) ago\b"
        r"|(?<!\bthe )(?<!['\u2019]s )\blast (?:century|decade|month|week|year)\b"
        r"|(?<!\bare )(?<!\bis )(?<!\bwas )\bused to (?:be|have|live|own|play|run)\b"
        r"|\b(?:at (?:that|the) time(?! of\b)|back then|in the (?:future|past)|in those days)\b"
        r"|\b(?:formerly|previously)\b|\bbefore(?: (?:h(?:er|im)|it|that|them|this))?\W*\Z",
    ),
]
_PATTERNS = [(kind, re.compile(pattern, re.DOTALL)) for kind, pattern in _SAID]
_DATE = re.compile(
    r"\b(?:after|around|before|by|during|in|of|since|till|until)\s+(?:the\s+)?(?:year\s+)?"
    r"(?:(?:early|late|mid)[\s-]+)?((?:1\d|20)\d\d)s?\b|\b(\d\d?)(?:st|nd|rd|th)[\s-]century\b",
    re.IGNORECASE,
)
# An answer of today may be asked for with a year, but not in these tenses.
_NOT_NOW = re.compile(r"\b(?:did|had|was|were|will|would)\b", re.IGNORECASE)
# People around a subject, by what they are to it.
_PEOPLE = {
    "spouse": "boyfriend|girlfriend|husband|partner|spouse|widow|widower|wife",
    "parent": "dad|father|mom|mother|mum|parents",
    "child": "child|children|daughter|daughters|heir|son|sons",
    "sibling": "brother|brothers|sibling|siblings|sister|sisters",
    "relative": "aunt|cousin|granddaughter|grandfather|grandmother|grandson|nephew|niece|uncle",
    "leader": "boss|captain|ceo|chief|coach|conductor|king|leader|manager|mayor|minister|president"
    "|queen",
    "maker": "author|composer|creator|designer|director|founder|founders|inventor|writer",
    "holder": "owner|predecessor|successor",
    "friend": "colleague|enemy|friend|friends|mentor|neighbor|neighbour|rival|teacher",
}
_MEANT = {word: kind for kind, forms in _PEOPLE.items() for word in forms.split("|")}
# What may stand for a qualifier in other words, or elsewhere in a question.
_ALSO = {
    "first": "debut|given|inaugural|maiden|premiere|premiered",
    "another time": "ago|former|formerly|historical|once|past|previous|previously|used",
    "not": "never|not|t",
    "spouse": "marriage|married|marry",
    "leader": "chair|chairman|chairperson|chaired|chairs|commanded|executive|governor|head|headed"
    "|heads|lead|leads|led|manages|rector|ruled|ruler|rules|runs",
    "maker": "architect|built|by|composed|created|designed|developed|directed|established|founded"
    "|invented|made|painted|produced|wrote|written",
    "holder": "held|holds|owned|owns|replaced|succeeded",
}
_MENTIONED = {
    kind: frozenset(f"{forms}|{_ALSO.get(kind, kind)}".split("|"))
    for kind, forms in {"another time": "ago", "not": "not", **_ORDER, **_PEOPLE}.items()
}
# One of these signs is in every question that asks with a qualifier.
_SIGN = re.compile(
    rf"\d|n['\u2019]t\b|\bex-|\b(?:{'|'.join([*_ORDER.values(), *_PEOPLE.values()])}"
    r"|ago|apart|before|besides|except|formerly|future|never|not|past|previously|then|those|time"
    r"|used)\b",
    re.IGNORECASE,
)
_KINDS = tuple(_MENTIONED)
_YEARS = 31 - len(_KINDS)  # bits of an int32 that are left


class Qualifiers(NamedTuple):
    """The qualifiers of a question about a subject.

    Words with one meaning are one qualifier: "former" is "previous". A year is one beside a verb
    that does not speak of today, and "another time" stands for times without a year. Somebody
    around the subject of whom something is asked is one by what they are to it: "spouse".

    Attributes:
      asked: by what it asks for another fact than it would without them.
      mentioned: these, and all that it may have in other words. A question that asks *who* without
        any of them may be for anybody whom another one describes.
    """

    asked: frozenset[str]
    mentioned: frozenset[str]

    def apart(self, other: "Qualifiers") -> frozenset[str]:
        """What tells it from another question for the same: what only one of them has."""
        return (self.asked - other.mentioned) | (other.asked - self.mentioned)

    @property
    def bits(self) -> tuple[int, int]:
        """Both sets as numbers, a bit for each qualifier; years share the last few bits."""
        asked, mentioned = (sum({1 << _bit(kind) for kind in kinds}) for kinds in self)
        return asked, mentioned


def qualifiers(text: str, mention: Mention) -> Qualifiers:
    """The qualifiers of a question; one that is answered by yes or no asks with none.

    Args:
      text: the question.
      mention: where it names the subject.
    """
    mentioned = mentioned_qualifiers(text)
    if not may_ask_with_some(text) or answered_by_yes_or_no(text, mention):
        return Qualifiers(frozenset(), mentioned)
    asked = frozenset(_asked(text, mention))
    return Qualifiers(asked, asked | mentioned)


def may_ask_with_some(text: str) -> bool:
    """False where a text has no sign of a qualifier that it could ask with."""
    return _SIGN.search(text) is not None


def mentioned_qualifiers(text: str) -> frozenset[str]:
    """All qualifiers that a text has words of, wherever they stand."""
    words = set(folded(text))
    said = {kind for kind, forms in _MENTIONED.items() if words & forms}
    if words & {"who", "whom", "whose"} and not said & _PEOPLE.keys():
        said |= _PEOPLE.keys()
    return frozenset([*said, *filter(str.isdecimal, words)])


def _asked(text: str, mention: Mention) -> Iterator[str]:
    sentence = sentence_around(masked(text, [mention]), mention.start)
    yield from (kind for kind, pattern in _PATTERNS if pattern.search(sentence))
    for year, century in _DATE.findall(sentence):
        if century or _NOT_NOW.search(sentence):
            yield year or century
    yield from _people(text, mention)


def _people(text: str, mention: Mention) -> Iterator[str]:
    """Who is asked about, if they are described by the subject alone: `the wife of X`."""
    phrases = inner_phrases(text, mention)
    nearest = takewhile(lambda phrase: phrase.start == phrases[0].start, phrases)
    for phrase in nearest:
        if phrase.within:
            said = text[phrase.start : mention.start], text[mention.stop : phrase.stop]
            words = (word for part in said for word in folded(part))
            yield from (_MEANT[word] for word in words if word in _MEANT)


def _bit(kind: str) -> int:
    return _KINDS.index(kind) if kind in _KINDS else len(_KINDS) + int(kind) % _YEARS
