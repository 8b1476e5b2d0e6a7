"""Separates training from evaluation: an unrelated row must not be an evaluated question."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, UnrelatedRow, strip_nq
from onceedit_jax.errors import InputError


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
        pairs = [(record.prompt, record.target), (record.rephrase or "", record.target)]
        pairs += [(p.prompt, p.target) for p in (*record.locality, *record.portability)]
        prompts.update(_plain(prompt) for prompt, _ in pairs)
        texts.update(_plain(f"{prompt} {target}") for prompt, target in pairs if prompt)
    prompts.discard("")
    texts |= prompts
    clean: list[UnrelatedRow] = []
    leaked: list[UnrelatedRow] = []
    for row in unrelated:
        own = {_plain(row.prompt)}
        if row.answer is None:
            begins = not prompts.isdisjoint(_beginnings(_plain(row.prompt)))
        else:
            own |= {_plain(row.answer), _plain(f"{row.prompt} {row.answer}")}
            begins = False
        (leaked if begins or own & texts else clean).append(row)
    return clean, leaked


class Evaluated(NamedTuple):
    """Normalised questions that a training text must not be.

    Attributes:
      whole: rephrases, locality and portability questions.
      endings: the ends of rephrases, down to two words. A rephrase may begin with a sentence about
        something else.
    """

    whole: frozenset[str]
    endings: frozenset[str]


def evaluated_texts(records: Iterable[EditRecord]) -> Evaluated:
    """All questions of the records, except the edits' own prompts, which are trained on."""
    whole, endings = set[str](), set[str]()
    for record in records:
        rephrase = _plain(record.rephrase or "")
        endings.update(_endings(rephrase))
        whole.add(rephrase)
        whole.update(_plain(pair.prompt) for pair in (*record.locality, *record.portability))
    return Evaluated(frozenset(whole - {""}), frozenset(endings - {""}))


def without_evaluated(texts: Iterable[str], evaluated: Evaluated) -> list[str]:
    """The texts that are not an evaluated question, even behind a sentence about something else."""
    both_forms = ((text, _plain(text)) for text in texts)
    return [
        text
        for text, plain in both_forms
        if plain not in evaluated.endings and evaluated.whole.isdisjoint(_endings(plain))
    ]


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
        if any(digest(text) in known for text in _endings(_plain(record.rephrase or "")) if text):
            trained.append(record.rephrase or "")
    return trained


def _endings(text: str) -> Iterable[str]:
    """The whole text and its ends, down to the last two words."""
    words = text.split(" ")
    return (" ".join(words[start:]) for start in range(max(1, len(words) - 1)))


def _plain(text: str) -> str:
    return normalise(strip_nq(text))


def _beginnings(text: str) -> Iterable[str]:
    """A text's first three words, first four words, and so on; fewer words are not a question."""
    words = text.split(" ")
    return (normalise(" ".join(words[:end])) for end in range(3, len(words)))
