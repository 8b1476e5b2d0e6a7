"""Tells whether a question is answered by yes or no, or by reasons: by its form, in English."""

import re

from onceedit_jax.text.asked_sentence import sentence_start
from onceedit_jax.text.subjects import Mention, folded_words

_VERBS = """
    am are aren can cannot could couldn did didn do does doesn had hadn has hasn have haven is isn
    must should shouldn was wasn were weren will won would wouldn
"""
_OPENERS = "actually and btw but hello hey hi however now oh ok okay please so then um well yo"
_VERB_WORDS, _OPENING_WORDS = frozenset(_VERBS.split()), frozenset(_OPENERS.split())
# "Can you tell me who ...?" and "Would it be possible to ...?" ask for what follows, "Do tell me"
# too, and "Was ist ...?" is German.
_ASKED = re.compile(
    r"(anybody|anyone|i|one|somebody|someone|u|we|y|ya|you|it be|tell|say|give"
    r"|bedeutet|gehort|gibt|haben|hat|heisst|ist|kann|macht|sind|war|waren|wird)\b"
)
_WHETHER = re.compile(
    r"\b(whether|(ask|check|confirm|know|say|see|tell me|wonder) if)\b"
    r"|^\w+ (\w+ )?(anybody|anyone|i|somebody|someone|u|we|ya|you) "
    r"(agree|believe|think|sure|\w+( me)? that)\b"
)
# "Why not ask: who is the mayor?" and "Why don't you tell me" ask for no reasons.
_REASONS = re.compile(
    r"^(?:why(?! (?:not|don t you|doesn t anybody)\b)|how come\b)"
    r"|\b(?:explain|know|say|tell me|understand|wonder) why\b|\bwhat (?:is|was) the reason\b"
    r"|\bfor what reason\b"
)


def answered_by_yes_or_no(text: str, mention: Mention) -> bool:
    """Whether the sentence that names a subject is answered by yes or no.

    It begins with a verb that turns a statement into a question, or asks whether one is true.

    Args:
      text: a question.
      mention: where it names the subject.
    """
    before = _words_before(text, mention)
    if _WHETHER.search(" ".join(before)):
        return True
    if not before or before[0] not in _VERB_WORDS:
        return False
    rest = before[2:] if before[1:2] == ["t"] else before[1:]  # "Isn't"
    return _ASKED.match(" ".join(rest)) is None


def answered_by_reasons(text: str, mention: Mention) -> bool:
    """Whether the sentence that names a subject asks why something is so.

    Args:
      text: a question.
      mention: where it names the subject.
    """
    return _REASONS.search(" ".join(_words_before(text, mention))) is not None


def _words_before(text: str, mention: Mention) -> list[str]:
    """The words of a sentence before the subject that it names, without those that open it."""
    begin = sentence_start(text, mention.start)
    before = [word.folded for word in folded_words(text) if begin <= word.start < mention.start]
    while before and before[0] in _OPENING_WORDS:
        before.pop(0)
    return before
