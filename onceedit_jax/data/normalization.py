"""When two texts count as the same: one normal form for matches, contradictions and leaks."""

import unicodedata

# What may stand around an answer without changing it. Signs that do change it (C# and C, -5 and 5,
# $100 and 100) are left out on purpose.
EDGE_PUNCTUATION = ".,;:!?\"'`“”„‘’‚«»‹›()[]{}¿¡。、"  # noqa: RUF001 (quotation marks are meant)


def normalise(text: str) -> str:
    """Map texts that say the same to the same string.

    Unicode compatibility form (NFKC), case folded, white space collapsed to single blanks, sentence
    punctuation stripped from both ends (kept if nothing else is left). Contradicting edits, leaks
    and exact matches all compare texts in this form. `normalise(normalise(t)) == normalise(t)`.
    """
    # Folding can leave a form that is no longer NFKC, and NFKC one that is no longer folded;
    # Unicode's own caseless match (chapter 3.13, D146) therefore applies the pair twice.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(unicodedata.normalize("NFKC", text).split())
    return text.strip(EDGE_PUNCTUATION + " ") or text
