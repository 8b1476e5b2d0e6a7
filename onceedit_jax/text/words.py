"""Words of a text, and stable integer ids for them; the memory gate compares these."""

import re
import unicodedata
import zlib

# Scripts written without spaces between words: each of their characters counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")
WORDS = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")


def words(text: str) -> list[str]:
    """The words of a text, casefolded and in Unicode normal form NFKC, without punctuation."""
    return WORDS.findall(unicodedata.normalize("NFKC", text).casefold())


def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that is written without spaces between words."""
    return bool(_UNSPACED_CHARACTER.fullmatch(character))


def names(text: str) -> str:
    """The words after the first that begin with a capital letter or a digit, joined by spaces.

    They are a guess at the subject of the text. Scripts without capital letters give "".
    """
    later = WORDS.findall(text)[1:]
    return " ".join(word for word in later if word[0].isupper() or word[0].isdigit())


def word_id(word: str) -> int:
    """A word's id, from 0 to 2^31 - 1: its CRC-32, the same in every process."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) & 0x7FFFFFFF
