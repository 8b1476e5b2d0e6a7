"""The ledger: which edits answer, and which were superseded or taken back; pure functions."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence

from onceedit_jax.editing.artifact_info import EditEntry
from onceedit_jax.errors import InputError

Entries = tuple[EditEntry, ...]


def added(
    entries: Sequence[EditEntry],
    new: Sequence[EditEntry],
    supersedes: Mapping[int, Collection[int]],
) -> Entries:
    """The entries with new ones, which answer in the place of the earlier ones of the same fact.

    Args:
      entries: those so far.
      new: the new ones, with ids of their own.
      supersedes: by the id of a new one, ids of the live or new ones about the same fact that it
        takes the place of.
    """
    by = {old: one for one, olds in supersedes.items() for old in olds}
    return tuple(
        dataclasses.replace(entry, superseded_by=by[entry.id]) if entry.id in by else entry
        for entry in (*entries, *new)
    )


def reverted(entries: Sequence[EditEntry], ids: Collection[int]) -> Entries:
    """The entries with some taken back; what they had superseded answers again.

    If an edit is taken back that a later one had superseded, what it had superseded itself stays
    superseded, by the later one.

    Raises:
      InputError: an id that no edit has, or of one that was taken back before.
    """
    check_ids(entries, ids)
    for number in ids:
        gone = find(entries, number)
        entries = [
            dataclasses.replace(entry, reverted=True)
            if entry.id == number
            else dataclasses.replace(entry, superseded_by=gone.superseded_by)
            if entry.superseded_by == number
            else entry
            for entry in entries
        ]
    return tuple(entries)


def find(entries: Sequence[EditEntry], number: int) -> EditEntry:
    """The entry with an id.

    Raises:
      InputError: there is none.
    """
    for entry in entries:
        if entry.id == number:
            return entry
    last = max((entry.id for entry in entries), default=0)
    raise InputError(f"no edit has the id {number}; the ids are 1 to {last} (`onceedit list`)")


def check_ids(entries: Sequence[EditEntry], ids: Collection[int]) -> None:
    """Refuse ids that cannot be taken back.

    Raises:
      InputError: an id that no edit has, or of one that was taken back before.
    """
    for number in ids:
        if find(entries, number).reverted:
            raise InputError(f"edit {number} was taken back before; nothing was changed")


def next_id(entries: Sequence[EditEntry]) -> int:
    """The first id that no edit has or had."""
    return max((entry.id for entry in entries), default=0) + 1


def adapter_numbers(entries: Iterable[EditEntry]) -> list[int]:
    """The numbers of the adapters of some edits, in ascending order."""
    return sorted({entry.adapter for entry in entries if entry.adapter is not None})


def renumbered(entries: Sequence[EditEntry]) -> list[EditEntry]:
    """The entries with their adapters numbered from 0, as these lie in memory."""
    numbers = adapter_numbers(entries)
    return [
        entry
        if entry.adapter is None
        else dataclasses.replace(entry, adapter=numbers.index(entry.adapter))
        for entry in entries
    ]
