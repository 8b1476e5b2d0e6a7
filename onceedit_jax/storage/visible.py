"""Texts of others as they are printed: what a terminal would obey is shown and not sent.

Names in files, answers of models and error messages may hold escape sequences, which move the
cursor, set the window's title or hide text, and marks that turn the direction of writing.
"""

import re

# Control characters but tab and newline; line and paragraph separators; marks that reverse text;
# halves of characters, which no terminal can be sent; tags, which nobody sees.
_OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)

_LONGEST = 4000  # characters of a message: a path has as many at most


def visible(text: str) -> str:
    r"""The text with escapes, as in \x1b, for characters that a terminal would obey.

    Joiners, which Persian and emoji need, stay, and so do newlines and tabs.
    `visible(visible(t)) == visible(t)`.
    """
    return _OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: str) -> str:
    """The text on one line, `visible`; of a text that nobody would read, the begin and the end."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
    return visible(" ".join(text.split("\n")))
