"""Finds the subjects that a text names: phrases of whole words, the longest first."""

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from onceedit_jax.text.words import WORDS

# A capitalised neighbour makes a name another one (York, New York), unless it is one of these.
_SMALL_WORDS = """
    a an and are as at be but by can could did do does for from had has have hello hey hi how if
    in is it its list may name of ok on or please q question answer say should so tell that the
    then there this to was were what when where which who whom whose why will with would
"""
_TITLES = """
    admiral captain chancellor coach colonel dame dr emperor empress general governor judge justice
    king lady lake lord mayor minister miss mount mr mrs ms pope president prince princess prof
    professor queen river saint senator sir st sultan tsar
"""
SMALL_WORDS = frozenset(_SMALL_WORDS.split())
_OPENERS = frozenset([*SMALL_WORDS, *_TITLES.split()])
_JOINED = re.compile(r"[ \u00a0-]")  # what may stand between the words of one name
_MOSTLY = 0.75  # so many capitals of all words say nothing about names


class Word(NamedTuple):
    """A word of a text: folded, with its place in the text."""

    folded: str
    start: int
    stop: int


class Mention(NamedTuple):
    """Where a text names a subject.

    Attributes:
      subject: the subject's number.
      start: of its first character.
      stop: after its last one.
    """

    subject: int
    start: int
    stop: int


def fold(word: str) -> str:
    """A word without case and accents: "Müller" and "muller", "İstanbul" and "istanbul"."""
    for _ in range(2):  # a folded word may decompose, and a decomposed one fold further
        word = unicodedata.normalize("NFKD", word.casefold())
        word = "".join(c for c in word if not unicodedata.combining(c))
    return word


def folded_words(text: str) -> list[Word]:
    """The words of a text in their order."""
    words = []
    for match in WORDS.finditer(text):
        if folded := fold(match.group()):
            words.append(Word(folded, match.start(), match.end()))
    return words


def folded(name: str) -> tuple[str, ...]:
    """A name as its folded words."""
    return tuple(word.folded for word in folded_words(name))


class Subjects:
    """Phrases to look for, each of which names a subject.

    A phrase is found where its words stand one after another. Of phrases that overlap the longest
    is found, and the first of equally long ones. A phrase inside a longer name is not found: York
    in "New York". Names are told by their capitals, so this needs a text with capitals.
    """

    def __init__(self, phrases: Sequence[Sequence[str]]) -> None:
        """Prepare the search.

        Args:
          phrases: for each subject its names; names without a word are passed over. Of two subjects
            with one name the first is found.
        """
        self._phrases: dict[tuple[str, ...], int] = {}
        self._longest: dict[str, int] = {}
        for subject, names in enumerate(phrases):
            for name in names:
                if key := folded(name):
                    self._phrases.setdefault(key, subject)
                    self._longest[key[0]] = max(len(key), self._longest.get(key[0], 0))

    def number(self, name: str) -> int:
        """The number of the subject with this name.

        Raises:
          KeyError: no subject has it.
        """
        return self._phrases[folded(name)]

    def find(self, text: str) -> list[Mention]:
        """The subjects that a text names, in the order of the text."""
        words, mentions = folded_words(text), []
        capitals = _capitals(text, words)
        at = 0
        while at < len(words):
            length, subject = self._at(words, at)
            if length and not _within_name(text, words, capitals, at, at + length):
                mentions.append(Mention(subject, words[at].start, words[at + length - 1].stop))
            at += max(length, 1)
        return mentions

    def _at(self, words: Sequence[Word], at: int) -> tuple[int, int]:
        """The length in words of the longest phrase that starts there, and its subject."""
        for length in range(self._longest.get(words[at].folded, 0), 0, -1):
            key = tuple(word.folded for word in words[at : at + length])
            if len(key) == length and key in self._phrases:
                return length, self._phrases[key]
        return 0, -1


def names_in(text: str) -> list[str]:
    """Runs of words with a capital or a digit, the first word of the text left out.

    They are a guess at what a text is about, where nobody says it.
    """
    words = folded_words(text)
    runs: list[tuple[int, int]] = []
    for n, word in enumerate(words[1:], 1):
        if not (text[word.start].isupper() or text[word.start].isdigit()):
            continue
        if runs and runs[-1][1] == words[n - 1].stop and _joined(text, words[n - 1], word):
            runs[-1] = runs[-1][0], word.stop
        else:
            runs.append((word.start, word.stop))
    return [text[start:stop] for start, stop in runs]


def _capitals(text: str, words: Sequence[Word]) -> list[bool]:
    """Which words a capital marks as part of a name; none where most words have one."""
    marked = [text[word.start].isupper() for word in words]
    if len(words) > 2 and sum(marked) >= _MOSTLY * len(words):
        return [False] * len(words)
    return marked


def _within_name(
    text: str, words: Sequence[Word], capitals: Sequence[bool], start: int, stop: int
) -> bool:
    """Whether the words from start to stop are a part of a longer name."""
    if not capitals[start]:
        return False
    before, after = start - 1, stop
    if before >= 0 and capitals[before] and _joined(text, words[before], words[start]):
        return words[before].folded not in _OPENERS
    if after < len(words) and capitals[after] and _joined(text, words[stop - 1], words[after]):
        return words[after].folded not in _OPENERS
    return False


def _joined(text: str, first: Word, second: Word) -> bool:
    return bool(_JOINED.fullmatch(text[first.stop : second.start]))
