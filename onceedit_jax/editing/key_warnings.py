"""Warns of edits by whose key the gate cannot tell a prompt about them from any other text.

The key of an edit is what the gate `fact` looks for in a prompt: the names of its subject.
"""

import json
from collections import Counter
from collections.abc import Sequence

from onceedit_jax.data.records import EditRecord, UnrelatedRow, demo_path, neutral_rows
from onceedit_jax.editing.relation_reading import names_of, subjects_of
from onceedit_jax.text.subjects import SMALL_WORDS, Subjects, folded

_OTHERS = """
    all any art august bill day he her him his i jack man march mark me my no not one our rose she
    some their them they us we woman yes you your
"""
COMMON_WORDS = SMALL_WORDS | frozenset(_OTHERS.split())
MANY = 0.02  # share of texts; a name of people's or places' stands in fewer
MOST = 20  # warnings that are given one by one


def key_warnings(records: Sequence[EditRecord], texts: Sequence[str]) -> list[str]:
    """One line for each edit with a weak key, with what to do about it.

    A key is weak where one of its names is a common word ("May"), or stands in many texts that no
    edit concerns, or where the edit's prompt does not name its subject.

    Args:
      records: the edits.
      texts: texts that no edit concerns.
    """
    counts = _counts(records, texts)
    weak = [_weakness(record, counts, len(texts)) for record in records]
    lines = [
        f"edit {i} of {len(records)} ({record.prompt[:60]!r}): {text}"
        for i, (record, text) in enumerate(zip(records, weak, strict=True), 1)
        if text
    ]
    more = [f"{len(lines) - MOST} more edits have such keys"] if len(lines) > MOST else []
    return lines[:MOST] + more


def unconcerned_texts(unrelated: Sequence[UnrelatedRow] = ()) -> list[str]:
    """Texts that keys are looked for in: the package's neutral and reference texts, and others."""
    reference = json.loads(demo_path("reference_texts.json").read_text(encoding="utf-8"))
    rows = [row.prompt for row in (*neutral_rows(), *unrelated)]
    return list(dict.fromkeys([*rows, *reference]))


def _counts(records: Sequence[EditRecord], texts: Sequence[str]) -> Counter[tuple[str, ...]]:
    """How many texts the gate finds each name in, by the name's folded words."""
    subjects = subjects_of(records)
    return Counter(
        name
        for text in texts
        for name in {folded(text[m.start : m.stop]) for m in subjects.find(text)}
    )


def _weakness(record: EditRecord, counts: Counter[tuple[str, ...]], texts: int) -> str | None:
    """What is weak about the key of an edit, one thing alone; None for a good key."""
    names = names_of(record)
    common = [name for name in names if _is_common(name)]
    widespread = max(names, key=lambda name: counts[folded(name)])
    if common or counts[folded(widespread)] > MANY * texts:
        name = common[0] if common else widespread
        return (
            f"its key {name!r} {'is a common word, and ' if common else ''}stands in "
            f"{counts[folded(name)]} of {texts} neutral texts. Give a longer `subject`, and write "
            "it in the prompt"
        )
    if record.subject and not Subjects([[record.subject, *record.aliases]]).find(record.prompt):
        return (
            f"its prompt does not name its subject {record.subject!r}, so the gate looks for "
            f"{names[-1]!r} too. Write the subject in the prompt, or give the prompt's name for it "
            "as `subject`"
        )
    if names[-1] == record.prompt:
        return (
            "its prompt names no subject, so only prompts that hold all of it open the gate. Give "
            "a `subject` in the words of the prompt"
        )
    return None


def _is_common(name: str) -> bool:
    words = folded(name)
    return len(words) == 1 and words[0] in COMMON_WORDS
