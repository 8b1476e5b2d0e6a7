"""Keeps an artifact of adapters current: facts come, change again and are taken back.

An adapter is trained before anything is changed: meanwhile others may take edits back, or add some.
Then one program at a time changes the folder. What is new is written first and `edit.json`, which
names it, last. So a program that is killed leaves the state before or the state after.
"""

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, contradicting
from onceedit_jax.editing.adapter_folder import (
    base_model,
    remove_other_adapters,
    write_adapter,
)
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import (
    EditEntry,
    EditInfo,
    Operation,
    needed_adapters,
    read_info,
    write_info,
)
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.ledger import adapter_numbers, added, find, next_id
from onceedit_jax.editing.ledger_file import read_ledger
from onceedit_jax.editing.relation_heads import LearntHead, find_head
from onceedit_jax.editing.relation_reading import (
    own_parts,
    own_qualifiers,
    own_subjects,
    subjects_of,
)
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import Progress
from onceedit_jax.errors import InputError, RunError
from onceedit_jax.gates.fact import THRESHOLD
from onceedit_jax.gates.relation_head import RelationHead, host_likeness, host_vectors
from onceedit_jax.storage.locks import locked

USUAL = EditSettings()


class Added(NamedTuple):
    """What `add_edits` has done.

    Attributes:
      edits: the new edits.
      superseded: by the id of a new one, the earlier ones in whose place it answers.
      known: records that the folder held already; nothing was done for them.
    """

    edits: tuple[EditEntry, ...]
    superseded: dict[int, list[int]]
    known: list[EditRecord]


def add_edits(
    folder: Path,
    records: Sequence[EditRecord],
    settings: EditSettings = USUAL,
    *,
    last_wins: bool = False,
    replacing: Collection[int] = (),
    base: str | Path | None = None,
    head: LearntHead | None = None,
    by: str | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Added:
    """Teach an artifact more edits, in an adapter of their own; all others stay as they are.

    An edit of a fact that the artifact holds, in whatever words, supersedes the earlier one. Which
    facts are the same the gate `fact` says: the same subject, and relations that are alike.

    Args:
      folder: the artifact.
      records: the edits.
      settings: of the editing stage.
      last_wins: where two of the records contradict each other, take the later one.
      replacing: ids of edits that the records supersede, whatever the gate says.
      base: the model that the artifact was made for (default: the one that it names).
      head: the model's relation head (default: as for `edit`).
      by: who adds them, for the ledger (default: whoever runs this process).
      on_step: progress callback.
      on_warning: called with one line about each edit whose key is weak.

    Raises:
      InputError: two records contradict each other; an artifact without adapters; and what `edit`
        refuses. Nothing is changed then.
    """
    settings, begun = _apart(settings), time.monotonic()
    info = read_ledger(folder)
    _check_live(info, replacing)
    plugin = EditedPlugin.load(folder, base=base)
    records = _consistent(plugin, records, last_wins=last_wins)
    known, fresh = _divided(info, records)
    if known and replacing:
        raise InputError(
            f"{known[0].prompt!r} -> {known[0].target!r} is an edit here already; take back the "
            "one that it should replace (`onceedit revert`). Nothing was changed"
        )
    if not fresh:
        return Added((), {}, known)
    made = edit(
        base_model(folder, info, base),
        plugin.tokenizer,
        fresh,
        settings=settings,
        head=_head(plugin, head),
        on_step=on_step,
        on_warning=on_warning,
    )
    with locked(folder):
        before, info = info, _still(folder, info)
        _check_live(info, replacing)
        if _divided(info, records) == (known, fresh):
            if info != before:
                plugin = EditedPlugin.load(folder, base=base)
            first, number = next_id(info.edits), _next_adapter(info)
            new = tuple(
                dataclasses.replace(entry, id=first + i, adapter=number)
                for i, entry in enumerate(made.info.edits)
            )
            superseded = _superseded(plugin, made, [entry.id for entry in new], replacing)
            _write(folder, number, made, new)
            kind, ids = "replace" if replacing else "add", tuple(entry.id for entry in new)
            done = Operation.just_done(kind, ids, time.monotonic() - begun, by)
            write_info(folder, _changed(info, added(info.edits, new, superseded), made, done))
            return Added(new, superseded, known)
    # Meanwhile others have added some of these facts, or taken some back that were known.
    return add_edits(
        folder,
        records,
        settings,
        last_wins=last_wins,
        replacing=replacing,
        base=base,
        head=head,
        by=by,
        on_step=on_step,
        on_warning=on_warning,
    )


def compact_edits(
    folder: Path,
    settings: EditSettings = USUAL,
    *,
    base: str | Path | None = None,
    head: LearntHead | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> EditInfo:
    """Train all edits that answer again, in one adapter, and remove adapters that nothing needs.

    Args:
      folder: the artifact.
      settings: of the editing stage.
      base: the model that the artifact was made for (default: the one that it names).
      head: the model's relation head (default: as for `edit`).
      on_step: progress callback.

    Returns:
      What the artifact says of itself now.

    Raises:
      InputError: an artifact without adapters, or without edits that answer.
    """
    settings, begun = _apart(settings), time.monotonic()
    info = read_ledger(folder)
    if not info.live:
        raise InputError(f"{folder}: no edit answers any more; there is nothing to train")
    plugin = EditedPlugin.load(folder, base=base)
    made = edit(
        base_model(folder, info, base),
        plugin.tokenizer,
        plugin.records,
        settings=settings,
        head=_head(plugin, head),
        on_step=on_step,
        on_warning=lambda text: None,
    )
    trained = {entry.id for entry in plugin.info.edits}
    with locked(folder):
        info = _still(folder, info)
        number = _next_adapter(info)
        edits = tuple(
            dataclasses.replace(entry, adapter=number)
            if entry.state == "live" and entry.id in trained
            else entry
            for entry in info.edits
        )
        _write(folder, number, made, plugin.info.edits)
        ids = tuple(entry.id for entry in edits if entry.adapter == number)
        done = Operation.just_done("compact", ids, time.monotonic() - begun)
        info = _changed(info, edits, made, done)
        write_info(folder, info)
        remove_other_adapters(folder, needed_adapters(edits))
        return info


def _divided(
    info: EditInfo, records: Sequence[EditRecord]
) -> tuple[list[EditRecord], list[EditRecord]]:
    """The records that an artifact answers already, word for word, and the others."""
    live = {(normalise(entry.prompt), normalise(entry.target)) for entry in info.live}
    there = [(normalise(r.prompt), normalise(r.target)) in live for r in records]
    known = [record for record, is_known in zip(records, there, strict=True) if is_known]
    return known, [r for r, is_known in zip(records, there, strict=True) if not is_known]


def _check_live(info: EditInfo, ids: Collection[int]) -> None:
    """Refuse edits that do not answer."""
    for number in ids:
        if find(info.edits, number).state != "live":
            raise InputError(
                f"edit {number} does not answer any more; replace one that does. Nothing was "
                "changed"
            )


def _still(folder: Path, info: EditInfo) -> EditInfo:
    """What an artifact says of itself by now, if it is still the one that something was made for.

    Raises:
      RunError: the folder holds another artifact.
    """
    found = read_ledger(folder)
    same_base = found.base.content_hash == info.base.content_hash
    if not same_base or found.operations[: len(info.operations)] != info.operations:
        raise RunError(
            f"{folder}: another edit was saved here while an adapter was trained for the one "
            "before; nothing was changed. Run the command again"
        )
    return found


def _apart(settings: EditSettings) -> EditSettings:
    """The settings for an adapter.

    Raises:
      InputError: they name another method.
    """
    if settings.method not in (None, "adapter"):
        raise InputError(
            f"method={settings.method}: would change the weights that all edits here share; "
            "expected adapter"
        )
    return settings.with_method(apart=True)


def _head(plugin: EditedPlugin, head: LearntHead | None) -> LearntHead:
    """The relation head of the plug-in's base, after a check that the artifact was made with it."""
    head = find_head(plugin.base_hash) if head is None else head
    assert plugin.relation is not None
    own: RelationHead = plugin.relation["head"]
    if head is None or not all(map(np.array_equal, head.head, own)):
        raise InputError(
            f"{plugin.name}: the relation head on this machine is not the one that the artifact "
            "was made with, and could not compare new edits with old ones; edit all facts again, "
            "or bring the earlier head back (`onceedit gate-train`)"
        )
    return head


def _next_adapter(info: EditInfo) -> int:
    return max(adapter_numbers(info.edits), default=-1) + 1


def _write(folder: Path, number: int, made: EditedPlugin, entries: Sequence[EditEntry]) -> None:
    """Write the adapter of a plug-in that has one, after what was left of an earlier try."""
    assert made.adapters is not None and made.relation is not None
    remove_other_adapters(folder, needed_adapters(read_info(folder).edits))
    write_adapter(folder, number, made.adapters, np.asarray(made.relation["keys"]), entries)


def _changed(
    info: EditInfo, edits: Sequence[EditEntry], made: EditedPlugin, done: Operation
) -> EditInfo:
    """What an artifact says of itself after an adapter was trained."""
    own = made.info
    return dataclasses.replace(
        info,
        edits=tuple(edits),
        trained_texts=tuple(sorted({*info.trained_texts, *own.trained_texts})),
        settings=own.settings,
        metrics=own.metrics,
        history=own.history,
        editor=own.editor,
        versions=own.versions,
        contradicting=len(contradicting([e.record() for e in edits if e.state == "live"])),
        operations=(*info.operations, done),
    )


def _consistent(
    plugin: EditedPlugin, records: Sequence[EditRecord], *, last_wins: bool
) -> list[EditRecord]:
    """The records without those that a later one contradicts.

    Raises:
      InputError: two contradict each other, and the later one is not to win.
    """
    assert plugin.relation is not None and plugin.reader.relations is not None
    keys = host_vectors(plugin.relation["head"], plugin.reader.relations.read(own_parts(records)))
    same = _same_fact(plugin, records, keys, records, keys)
    dropped = set[int]()
    for i, j in zip(*np.nonzero(np.triu(same, 1)), strict=True):
        one, other = records[i], records[j]
        if normalise(one.target) == normalise(other.target):
            continue
        if not last_wins:
            raise InputError(
                f"two edits of one fact contradict each other: {one.prompt!r} -> {one.target!r} "
                f"({one.source}) and {other.prompt!r} -> {other.target!r} ({other.source}); remove "
                "one, or take the later one with --last-wins. Nothing was changed"
            )
        dropped.add(int(i))
    return [record for i, record in enumerate(records) if i not in dropped]


def _superseded(
    plugin: EditedPlugin, made: EditedPlugin, ids: Sequence[int], replacing: Collection[int]
) -> dict[int, list[int]]:
    """By the ids of new edits, those about the same fact that they take the place of.

    Of several new ones about one fact, each takes the place of the one before it: so the last one
    answers, and taking it back gives way to the one before.
    """
    assert made.relation is not None and plugin.relation is not None
    keys, old_keys = made.relation["keys"], plugin.relation["keys"]
    olds = [entry.id for entry in plugin.info.edits]
    among_old = _same_fact(plugin, made.records, keys, plugin.records, old_keys)
    among_new = _same_fact(plugin, made.records, keys, made.records, keys)
    found: dict[int, list[int]] = {}
    left = set(olds)
    for i, number in enumerate(ids):
        earlier = [ids[j] for j in np.flatnonzero(among_new[i, :i])[-1:].tolist()]
        same = [olds[j] for j in np.flatnonzero(among_old[i]).tolist() if olds[j] in left]
        left -= {*same}
        if earlier or same:
            found[number] = [*earlier, *same]
    if rest := [old for old in replacing if old in left]:
        found[ids[0]] = [*found.get(ids[0], []), *rest]
    return found


def _same_fact(
    plugin: EditedPlugin,
    some: Sequence[EditRecord],
    some_keys: Any,
    others: Sequence[EditRecord],
    other_keys: Any,
) -> Bool[np.ndarray, "some others"]:
    """Which edits are about the same fact: one subject, relations alike, the same qualifiers."""
    if not others:
        return np.zeros((len(some), 0), bool)
    assert plugin.relation is not None
    subjects = subjects_of([*some, *others])
    one, other = own_subjects(some, subjects), own_subjects(others, subjects)
    likely = host_likeness(plugin.relation["head"], some_keys, other_keys)
    same: np.ndarray = (one[:, None] == other[None, :]) & (likely >= THRESHOLD)
    for i, j in zip(*np.nonzero(same), strict=True):
        own, held = own_qualifiers([some[i], others[j]])
        same[i, j] = not own.apart(held)
    return same
