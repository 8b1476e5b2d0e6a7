"""Separates training from evaluation: an unrelated row must not be an evaluated question."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from onceedit_jax.data.normalization import EDGE_PUNCTUATION, normalise
from onceedit_jax.data.records import EditRecord, UnrelatedRow, strip_nq
from onceedit_jax.errors import InputError

_Hash = partial(hashlib.blake2b, digest_size=16)
_LONGEST_END = 200  # words


def check_leaks(unrelated: Sequence[UnrelatedRow], evaluated: Iterable[EditRecord]) -> None:
    """Refuse unrelated rows that are also evaluated.

    Raises:
      InputError: with the number of such rows, the first ones, and the remedy.
    """
    _, leaked = drop_leaks(unrelated, evaluated)
    if leaked:
        shown = "; ".join(repr(row.prompt[:70]) for row in leaked[:3])
        raise InputError(
            f"{len(leaked)} of {len(unrelated)} unrelated rows are also evaluated, so that "
            f"locality would be measured on trained texts: {shown}. Remove them from the "
            "unrelated file, or pass --drop-leaks to leave them out"
        )


def drop_leaks(
    unrelated: Sequence[UnrelatedRow], evaluated: Iterable[EditRecord]
) -> tuple[list[UnrelatedRow], list[UnrelatedRow]]:
    """Split unrelated rows into those that may be trained on and those that are evaluated.

    A row leaks if its prompt, its answer or both joined equal an evaluated prompt (edit, rephrase,
    locality, portability), alone or joined with its answer. Texts are compared after `normalise`
    and without ZsRE's "nq question:". Answers are not compared with answers: "French" answers many
    questions. A row without a separate answer may hold question and answer in one string, so it
    also leaks if it begins with an evaluated prompt.

    Returns:
      (clean rows, leaking rows), both in their order.
    """
    prompts, texts = set[str](), set[str]()
    for record in evaluated:
        pairs = [
            (text, answer)
            for text in (record.prompt, *record.rephrases)
            for answer in (record.target, *record.accepted)
        ]
        pairs += [
            (pair.prompt, answer)
            for pair in (*record.locality, *record.portability)
            for answer in (pair.target, *pair.accepted)
        ]
        prompts.update(_plain(prompt) for prompt, _ in pairs)
        texts.update(_plain(f"{prompt} {target}") for prompt, target in pairs if prompt)
    prompts.discard("")
    texts |= prompts
    asked = {_mark([prompt]) for prompt in prompts}
    clean: list[UnrelatedRow] = []
    leaked: list[UnrelatedRow] = []
    for row in unrelated:
        own = {_plain(row.prompt)}
        if row.answer is None:
            begins = not asked.isdisjoint(_beginnings(_plain(row.prompt)))
        else:
            own |= {_plain(row.answer), _plain(f"{row.prompt} {row.answer}")}
            begins = False
        (leaked if begins or own & texts else clean).append(row)
    return clean, leaked


class Evaluated(NamedTuple):
    """Normalised questions that a training text must not be, as `_endings` marks them.

    Attributes:
      whole: rephrases, locality and portability questions.
      endings: the ends of rephrases, down to two words. A rephrase may begin with a sentence about
        something else.
    """

    whole: frozenset[bytes]
    endings: frozenset[bytes]


def evaluated_texts(records: Iterable[EditRecord]) -> Evaluated:
    """All questions of the records, except the edits' own prompts, which are trained on."""
    whole, endings = set[str](), set[bytes]()
    for record in records:
        for rephrase in filter(None, map(_plain, record.rephrases)):
            endings.update(_endings(rephrase))
            whole.add(rephrase)
        whole.update(_plain(pair.prompt) for pair in (*record.locality, *record.portability))
    marks = (_endings(text)[-1] for text in whole - {""})
    return Evaluated(frozenset(marks), frozenset(endings))


def without_evaluated(texts: Iterable[str], evaluated: Evaluated) -> list[str]:
    """The texts that are not an evaluated question, even behind a sentence about something else."""
    kept = []
    for text in texts:
        marks = _endings(_plain(text))
        if marks[-1] not in evaluated.endings and evaluated.whole.isdisjoint(marks):
            kept.append(text)
    return kept


def digest(text: str) -> str:
    """How an artifact lists a text: 16 hexadecimal digits of the SHA-256 of its normalised form."""
    return hashlib.sha256(_plain(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def trained_on(records: Iterable[EditRecord], digests: Iterable[str]) -> list[str]:
    """Questions of the records that an artifact was trained on, except the edits' own prompts.

    Args:
      records: the evaluated records.
      digests: the artifact's `trained_texts`.
    """
    known, trained = frozenset(digests), list[str]()
    for record in records:
        questions = [pair.prompt for pair in (*record.locality, *record.portability)]
        trained += [text for text in questions if digest(text) in known]
        for rephrase in record.rephrases:
            words = _plain(rephrase).split(" ")
            # A digest is of a whole text, so each end is one; longer ends were never trained on.
            starts = range(max(0, len(words) - _LONGEST_END), max(1, len(words) - 1))
            ends = (" ".join(words[start:]) for start in starts)
            if any(digest(text) in known for text in ends if text):
                trained.append(rephrase)
    return trained


def _plain(text: str) -> str:
    return normalise(strip_nq(text))


def _mark(pieces: Iterable[str]) -> bytes:
    whole = _Hash()
    for piece in pieces:
        whole.update(piece.encode("utf-8", "surrogatepass"))
    return whole.digest()


def _endings(text: str) -> list[bytes]:
    """Marks of a text's ends, from its last two words to the whole text; linear in its length."""
    words, marks, end = text.split(" "), list[bytes](), _Hash()
    for count, word in enumerate(reversed(words), 1):
        end.update(word.encode("utf-8", "surrogatepass") + b"\0")
        if count > 1 or len(words) == 1:
            marks.append(end.digest())
    return marks


def _beginnings(text: str) -> Iterator[bytes]:
    """Marks of a text's first three words, first four words, and so on; linear in its length.

    The last word has no punctuation at its end, as in `normalise`. Fewer words are no question.
    """
    words, whole = text.split(" "), _Hash()
    mark = whole.digest()
    for count, word in enumerate(words[:-1], 1):
        piece = word if count == 1 else f" {word}"
        bare = piece.rstrip(EDGE_PUNCTUATION + " ")
        if bare:
            until = whole.copy()
            until.update(bare.encode("utf-8", "surrogatepass"))
            mark = until.digest()
        whole.update(piece.encode("utf-8", "surrogatepass"))
        if count >= 3:
            yield mark
