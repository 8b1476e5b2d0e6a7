"""The normal form in which texts are compared: for matches, contradictions and leaks."""

import unicodedata

# Signs that may surround an answer without changing it. Signs that change it (C# and C, -5 and 5,
# $100 and 100) are not among them.
EDGE_PUNCTUATION = ".,;:!?\"'`“”„‘’‚«»‹›()[]{}¿¡。、"  # noqa: RUF001 (quotation marks are meant)


def normalise(text: str) -> str:
    """Map texts that differ only in case, spacing or outer punctuation to the same string.

    The result is in Unicode's compatibility form (NFKC) and case folded, with single blanks between
    words and no sentence punctuation at its ends (unless the text has nothing else). Contradicting
    edits, leaks and exact matches are all decided on this form.
    `normalise(normalise(t)) == normalise(t)`.
    """
    # A folded text may not be in NFKC any more, and a text in NFKC may not be folded any more.
    # Unicode's caseless match (chapter 3.13, D146) therefore applies both twice.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    return text.strip(EDGE_PUNCTUATION + " ") or text
