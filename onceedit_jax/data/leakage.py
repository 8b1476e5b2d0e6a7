"""Keeps training and evaluation apart: no text that is evaluated may be an unrelated row."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, UnrelatedRow, strip_nq
from onceedit_jax.errors import InputError


def check_leaks(unrelated: Sequence[UnrelatedRow], evaluated: Iterable[EditRecord]) -> None:
    """Refuse unrelated rows that are also evaluated.

    Raises:
      InputError: with the number of such rows, the first of them, and the remedy.
    """
    _, leaked = drop_leaks(unrelated, evaluated)
    if leaked:
        shown = "; ".join(repr(row.prompt[:70]) for row in leaked[:3])
        raise InputError(
            f"{len(leaked)} of {len(unrelated)} unrelated rows are also evaluated, so that "
            f"locality would be measured on what was trained: {shown}. Remove them from the "
            "unrelated file, or pass --drop-leaks to leave them out"
        )


def drop_leaks(
    unrelated: Sequence[UnrelatedRow], evaluated: Iterable[EditRecord]
) -> tuple[list[UnrelatedRow], list[UnrelatedRow]]:
    """Split unrelated rows into those that may be trained on and those that are evaluated.

    Normalised text of a row's prompt, answer and both joined is compared with every evaluated
    prompt (edit, rephrase, locality, portability), alone and joined with its answer; ZsRE's "nq
    question:" is taken off first. Answers alone are not compared with one another: "French" answers
    unlike questions. A row without an answer of its own may hold question and answer in one string,
    so it also counts if it begins with an evaluated prompt.

    Returns:
      (rows that are clean, rows that leak), both in their order.
    """
    prompts, texts = set[str](), set[str]()
    for record in evaluated:
        asked = [(record.prompt, record.target), (record.rephrase or "", record.target)]
        asked += [(p.prompt, p.target) for p in (*record.locality, *record.portability)]
        prompts.update(_plain(prompt) for prompt, _ in asked)
        texts.update(_plain(f"{prompt} {target}") for prompt, target in asked if prompt)
    prompts.discard("")
    texts |= prompts
    clean: list[UnrelatedRow] = []
    leaked: list[UnrelatedRow] = []
    for row in unrelated:
        own = {_plain(row.prompt)}
        if row.answer is None:
            opens = not prompts.isdisjoint(_openings(_plain(row.prompt)))
        else:
            own |= {_plain(row.answer), _plain(f"{row.prompt} {row.answer}")}
            opens = False
        (leaked if opens or own & texts else clean).append(row)
    return clean, leaked


class Evaluated(NamedTuple):
    """Normalised questions that no text made for training may be.

    Attributes:
      whole: rephrases, locality and portability questions.
      endings: what rephrases end with, down to two words: they may begin with a sentence about
        something else.
    """

    whole: frozenset[str]
    endings: frozenset[str]


def evaluated_texts(records: Iterable[EditRecord]) -> Evaluated:
    """All that is asked of records but the edits' own prompts, which are trained on."""
    whole, endings = set[str](), set[str]()
    for record in records:
        rephrase = _plain(record.rephrase or "")
        endings.update(_endings(rephrase))
        whole.add(rephrase)
        whole.update(_plain(pair.prompt) for pair in (*record.locality, *record.portability))
    return Evaluated(frozenset(whole - {""}), frozenset(endings - {""}))


def without_evaluated(texts: Iterable[str], evaluated: Evaluated) -> list[str]:
    """The texts that are no evaluated question, whatever either of them begins with."""
    plain = ((text, _plain(text)) for text in texts)
    return [
        text
        for text, bare in plain
        if bare not in evaluated.endings and evaluated.whole.isdisjoint(_endings(bare))
    ]


def digest(text: str) -> str:
    """A text's mark in an artifact: sixteen hexadecimal digits of the SHA-256 of its plain form."""
    return hashlib.sha256(_plain(text).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def trained_on(records: Iterable[EditRecord], digests: Iterable[str]) -> list[str]:
    """Evaluated questions (edits' own prompts apart) whose digest an artifact lists as trained."""
    known, found = frozenset(digests), list[str]()
    for record in records:
        asked = [pair.prompt for pair in (*record.locality, *record.portability)]
        found += [text for text in asked if digest(text) in known]
        if any(digest(text) in known for text in _endings(_plain(record.rephrase or "")) if text):
            found.append(record.rephrase or "")
    return found


def _endings(text: str) -> Iterable[str]:
    words = text.split(" ")
    return (" ".join(words[start:]) for start in range(max(1, len(words) - 1)))


def _plain(text: str) -> str:
    return normalise(strip_nq(text))


def _openings(text: str) -> Iterable[str]:
    """What a text of several words begins with; one or two words ask nothing in particular."""
    words = text.split(" ")
    return (normalise(" ".join(words[:end])) for end in range(3, len(words)))
