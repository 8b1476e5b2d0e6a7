"""Tells by its form alone, in English, whether a question is answered by yes or no."""

from onceedit_jax.text.subjects import Mention, folded_words, sentence_start

_VERBS = """
    am are aren can cannot could couldn did didn do does doesn don had hadn has hasn have haven is
    isn may might must shall should shouldn was wasn were weren will won would wouldn
"""
# "Can you tell me who ...?" asks for what follows.
_ASKED = "anybody anyone i one somebody someone u we y ya you"
_OPENERS = "actually and btw but hello hey hi however now oh ok okay please so then um well yo"
_VERB_WORDS, _ASKED_WORDS, _OPENING_WORDS = (
    frozenset(words.split()) for words in (_VERBS, _ASKED, _OPENERS)
)


def answered_by_yes_or_no(text: str, mention: Mention) -> bool:
    """Whether the sentence that names a subject is answered by yes or no.

    It begins with a verb that turns a statement into a question, or says "whether".

    Args:
      text: a question.
      mention: where it names the subject.
    """
    begin = sentence_start(text, mention.start)
    before = [word.folded for word in folded_words(text) if begin <= word.start < mention.start]
    if "whether" in before:
        return True
    while before and before[0] in _OPENING_WORDS:
        before.pop(0)
    if not before or before[0] not in _VERB_WORDS:
        return False
    rest = before[2:] if before[1:2] == ["t"] else before[1:]  # "Isn't"
    return not rest or rest[0] not in _ASKED_WORDS
