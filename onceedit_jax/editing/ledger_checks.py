"""Whether the ledger in an `edit.json` is one that its operations can have made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from onceedit_jax.errors import InputError
from onceedit_jax.storage.schema import shown

if TYPE_CHECKING:
    from onceedit_jax.editing.artifact_info import EditEntry, EditInfo

_LARGEST = 1e6  # of thresholds, in single precision too
_LONGEST = 100_000  # characters of a prompt or an answer; no model reads as many
_MOST = 2**31 - 1  # of ids and adapters, as adapters hold them
_GATES = ("token", "memory", "both")  # calibrated with an edit that is in the weights


def check_ledger(info: EditInfo, path: Path) -> None:
    """Refuse a ledger that contradicts itself: some edits would answer that should not.

    Args:
      info: what the file says.
      path: the file.

    Raises:
      InputError: naming the file, the edit, what is wrong and what was expected.
    """
    for fault in _faults(info):
        raise InputError(f"{path}, {fault}; the file is damaged: restore it, or edit again")


def _faults(info: EditInfo) -> Iterator[str]:
    numbers = Counter(entry.id for entry in info.edits if entry.id)
    answering = {entry.id for entry in info.edits if not entry.reverted}
    for place, entry in enumerate(info.edits):
        where = f"edits[{place}]"
        if not 0 <= entry.id <= _MOST or numbers[entry.id] > 1:
            yield f"{where}.id is {shown(entry.id)}; expected a number of its own from 1"
        if not (entry.prompt.strip() and entry.target.strip()):
            yield f"{where} has no text for a prompt or an answer; expected both"
        if (longest := max(map(len, _texts(entry)))) > _LONGEST:
            yield f"{where} has a text of {longest} characters; expected at most {_LONGEST}"
        later = entry.superseded_by
        if later is not None and (later <= entry.id or later not in numbers):
            yield f"{where}.superseded_by is {shown(later)}; expected the id of a later edit"
        if later is not None and not entry.reverted and later not in answering:
            yield f"{where}.superseded_by is {later}, which was taken back; expected one that holds"
        yield from _faults_of_place(info, entry, where)
        if not _is_time(entry.added):
            yield f"{where}.added is {shown(entry.added)}; expected a time such as 2026-01-31T12:00"
    for place, done in enumerate(info.operations):
        if not _is_time(done.time):
            yield (
                f"operations[{place}].time is {shown(done.time)}; expected a time such as "
                "2026-01-31T12:00"
            )
    yield from _faults_of_gates(info)


def _texts(entry: EditEntry) -> tuple[str, ...]:
    return (entry.prompt, entry.target, entry.subject or "", entry.rephrase or "", *entry.aliases)


def _faults_of_place(info: EditInfo, entry: EditEntry, where: str) -> Iterator[str]:
    """What is wrong with where an edit is said to be."""
    found = entry.adapter
    if info.in_adapters and not entry.reverted and found is None:
        yield f"{where}.adapter is null; expected the number of its adapter"
    if found is not None and not (info.in_adapters and 0 <= found <= _MOST):
        expected = f"a number from 0 to {_MOST}" if info.in_adapters else "null beside weights"
        yield f"{where}.adapter is {shown(found)}; expected {expected}"


def _faults_of_gates(info: EditInfo) -> Iterator[str]:
    """What is wrong with the thresholds and the relation head."""
    rule = info.rule
    numbers = {"reach_threshold": rule.reach_threshold, "reach_evidence": rule.reach_evidence}
    for key in ("alpha_thresholds", "trust_thresholds"):
        thresholds = getattr(rule, key)
        numbers |= {f"{key}.{gate}": value for gate, value in thresholds.items()}
        absent = [gate for gate in _GATES if gate not in thresholds]
        if absent and not info.in_adapters:
            yield f"rule.{key} has no {absent[0]}; expected {', '.join(_GATES)}"
    for key, value in numbers.items():
        if abs(value) > _LARGEST:
            yield f"rule.{key} is {value:g}; expected a number up to {_LARGEST:g}"
    if info.in_adapters and info.relation is None:
        yield "relation is null; expected the relation head of its adapters"
    layers, most = 1 if info.relation is None else info.relation.layers, _layers(info)
    if not 1 <= layers <= most:
        yield f"relation.layers is {shown(layers)}; expected a number from 1 to {most}"


def _layers(info: EditInfo) -> int:
    """The layers of the base, where its configuration says so."""
    found = info.base.config.get("num_layers")
    return found if isinstance(found, int) else _MOST


def _is_time(text: str) -> bool:
    try:
        return not text or bool(datetime.fromisoformat(text))
    except ValueError:
        return False
