"""Keeps training and evaluation apart: no text that is evaluated may be an unrelated row."""

from collections.abc import Iterable, Sequence

from onceedit_jax.data.records import EditRecord, UnrelatedRow, normalise
from onceedit_jax.errors import InputError

_PREFIX = "nq question:"  # ZsRE's mark on locality prompts; the question behind it is what counts


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

    Normalised text of every field of a row is compared with every field of every record. A row
    that begins with an evaluated prompt counts as well: some files join question and answer into
    one string.

    Returns:
      (rows that are clean, rows that leak), both in their order.
    """
    texts, prompts = set[str](), set[str]()
    for record in evaluated:
        pairs = (*record.locality, *record.portability)
        asked = [record.prompt, record.rephrase or "", *(pair.prompt for pair in pairs)]
        prompts.update(_plain(text) for text in asked)
        joined = [(record.prompt, record.target), *((pair.prompt, pair.target) for pair in pairs)]
        texts.update(_plain(f"{prompt} {target}") for prompt, target in joined)
    prompts.discard("")
    texts |= prompts
    clean: list[UnrelatedRow] = []
    leaked: list[UnrelatedRow] = []
    for row in unrelated:
        whole = f"{row.prompt} {row.answer or ''}"
        leaks = (
            _plain(row.prompt) in texts
            or _plain(whole) in texts
            or any(prefix in prompts for prefix in _word_prefixes(_plain(row.prompt)))
        )
        (leaked if leaks else clean).append(row)
    return clean, leaked


def _plain(text: str) -> str:
    text = normalise(text)
    return normalise(text.removeprefix(_PREFIX))


def _word_prefixes(text: str) -> Iterable[str]:
    # A single word is too little to say that a row asks an evaluated question.
    words = text.split(" ")
    return (normalise(" ".join(words[:end])) for end in range(3, len(words)))
