"""Readers turn the rows of a data set into edit records: today's formats, and those of others.

A reader is a value. `load_records(file, my_reader)` takes one from outside as it is; a package can
give a name to its own by an entry point of the group `onceedit_jax.readers`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.data.rows import Row
from onceedit_jax.errors import InputError

GROUP = "onceedit_jax.readers"


@dataclass(frozen=True)
class Reader:
    """How one data set's rows become edit records.

    Example:
      >>> triples = Reader(
      ...     name="triples",
      ...     matches=lambda first_row: "object" in first_row,
      ...     read=lambda row: [EditRecord(row.text("question"), row.text("object"))],
      ... )

    Attributes:
      name: what `--format` and messages call it.
      matches: whether a data set is of this format, from its first row's keys and values.
      read: the edits of one row. `index` is set by `load_records`; `source` may be `row.place`.
      expects: for messages, the keys that a row needs.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Row], list[EditRecord]]
    expects: str = ""


def known_readers() -> dict[str, Reader]:
    """Readers by name: those of the package, then those of installed packages.

    Raises:
      InputError: an entry point is not a reader, or takes a name that exists.
    """
    readers = dict(READERS)
    for entry in entry_points(group=GROUP):
        if entry.name in readers:
            raise InputError(
                f"entry point {_described(entry)}: a reader of this name exists; rename it"
            )
        readers[entry.name] = _loaded(entry)
    return readers


def reader_by_name(name: str) -> Reader:
    """The reader of a name, from the package or from an installed one.

    Raises:
      InputError: there is none; the message lists those there are.
    """
    if name in READERS:
        return READERS[name]
    readers = known_readers()
    if name not in readers:
        raise InputError(f"format {name!r}: expected auto, {', '.join(readers)}")
    return readers[name]


def matching_reader(values: Mapping[str, Any], readers: Mapping[str, Reader]) -> Reader | None:
    """The first of the readers whose format a row with these values has."""
    return next((reader for reader in readers.values() if reader.matches(values)), None)


def detect_reader(row: Row, readers: Mapping[str, Reader]) -> Reader:
    """The first of the readers whose format a data set's first row has.

    Raises:
      InputError: there is none; the message has the keys that each format needs.
    """
    if reader := matching_reader(row.values, readers):
        return reader
    known = "; ".join(
        f"{name}: {reader.expects}" if reader.expects else name for name, reader in readers.items()
    )
    raise row.error(
        f"{', '.join(row.values)} are the keys of no known format. Keys needed, by format: {known}"
    )


def _loaded(entry: EntryPoint) -> Reader:
    try:
        reader = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(f"entry point {_described(entry)}: cannot be loaded ({error})") from error
    if not isinstance(reader, Reader):
        raise InputError(
            f"entry point {_described(entry)}: is a {type(reader).__name__}; expected a Reader"
        )
    return reader


def _described(entry: EntryPoint) -> str:
    return f"{entry.name} = {entry.value} of {GROUP}"


def _by_keys(name: str, keys: tuple[str, ...], read: Callable[[Row], list[EditRecord]]) -> Reader:
    """A reader of rows that have all these keys."""
    return Reader(name, lambda first_row: set(keys) <= first_row.keys(), read, ", ".join(keys))


def _zsre(row: Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row.text("src"),
            target=row.text("alt"),
            rephrase=row.text_or_none("rephrase"),
            locality=row.pair("loc", "loc_ans"),
            portability=row.row("portability").pair("New Question", "New Answer"),
            subject=row.text_or_none("subject"),
            true_answers=row.texts("answers"),
            source=row.place,
        )
    ]


def _counterfact(row: Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row.text("prompt"),
            target=row.text("target_new"),
            rephrase=row.text_or_none("rephrase_prompt"),
            locality=row.pair("locality_prompt", "locality_ground_truth"),
            subject=row.text_or_none("subject"),
            true_answers=row.texts("ground_truth"),
            source=row.place,
        )
    ]


def _mquake(row: Row) -> list[EditRecord]:
    """Every edit of a case is a record; the case's multi-hop questions go with the first."""
    hops = tuple(Pair(question, row.text("new_answer")) for question in row.texts("questions"))
    return [
        EditRecord(
            # `replace`, since other braces in a prompt are text.
            prompt=edit.text("prompt").replace("{}", edit.text("subject")),
            target=edit.row("target_new").text("str"),
            rephrase=edit.text_or_none("question"),
            portability=hops if n == 0 else (),
            subject=edit.text("subject"),
            true_answers=edit.row("target_true").texts("str"),
            source=edit.place,
        )
        for n, edit in enumerate(row.rows("requested_rewrite"))
    ]


def _own(row: Row) -> list[EditRecord]:
    return [
        EditRecord(
            prompt=row.text("prompt"),
            target=row.text("target"),
            rephrase=row.text_or_none("rephrase"),
            locality=_own_pairs(row, "locality"),
            portability=_own_pairs(row, "portability"),
            subject=row.text_or_none("subject"),
            aliases=row.texts("aliases"),
            true_answers=row.texts("true_answers"),
            source=row.place,
        )
    ]


def _own_pairs(row: Row, name: str) -> tuple[Pair, ...]:
    # CSV has no lists: one pair is in two columns.
    prompt, target = f"{name}_prompt", f"{name}_target"
    if row.has(prompt) or row.has(target):
        return (Pair(row.text(prompt), row.text(target)),)
    return tuple(
        # QAEdit has this layout, but names the two after ZsRE.
        Pair(item.text("loc"), item.text("loc_ans"))
        if item.has("loc")
        else Pair(item.text("prompt"), item.text("target"))
        for item in row.rows(name)
    )


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        _by_keys("zsre", ("src", "alt"), _zsre),
        _by_keys("counterfact", ("prompt", "target_new"), _counterfact),
        _by_keys("mquake", ("requested_rewrite", "questions", "new_answer"), _mquake),
        _by_keys("jsonl", ("prompt", "target"), _own),
        _by_keys("csv", ("prompt", "target"), _own),
    )
}
