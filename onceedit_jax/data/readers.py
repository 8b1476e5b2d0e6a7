"""Readers turn the rows of a data set into edit records: today's formats, and those of others.

A reader is a value. `load_records(file, my_reader)` takes one from outside as it is; a package can
give a name to its own by an entry point of the group `onceedit_jax.readers`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onceedit_jax.data import formats
from onceedit_jax.data.records import EditRecord
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
      unused: keys that the format has and `read` has no use for, as in "edit.subject_id"; the keys
        inside them too. Other keys that `read` does not ask for are named to the user.
    """

    name: str
    matches: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Row], list[EditRecord]]
    expects: str = ""
    unused: frozenset[str] = frozenset()


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
    plain = dict(values)  # a row's own values note what a reader reads
    return next((reader for reader in readers.values() if reader.matches(plain)), None)


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


Read = Callable[[Row], list[EditRecord]]


def _by_keys(name: str, read: Read, *keys: tuple[str, ...], unused: tuple[str, ...] = ()) -> Reader:
    """A reader of rows that have all of some keys, or all of some others."""
    return Reader(
        name,
        lambda first_row: any(set(each) <= first_row.keys() for each in keys),
        read,
        " or ".join(map(", ".join, keys)),
        frozenset(unused),
    )


def _by_object(name: str, read: Read, keys: tuple[str, ...], *, unused: tuple[str, ...]) -> Reader:
    """A reader of rows with all of some keys, under the first of which an object is."""
    return Reader(
        name,
        lambda first_row: set(keys) <= first_row.keys() and isinstance(first_row[keys[0]], Mapping),
        read,
        f"{', '.join(keys)} (an object under {keys[0]})",
        frozenset(unused),
    )


_LABELS = ("id", "index", "case_id", "source")  # of rows
_QUERY = (  # what a query of RippleEdits says of itself beside prompt and answers
    *("subject_id", "relation", "phrase", "second_relation"),
    *("target_ids", "second_hop_target_ids"),
)
_TARGETS = ("requested_rewrite.target_new.id", "requested_rewrite.target_true.id")

READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        _by_keys(
            "zsre",
            formats.zsre,
            ("src", "alt"),
            unused=(*_LABELS, "pred", "cond", "portability.Recalled Relation"),
        ),
        _by_keys(
            "counterfact",
            formats.easyedit,
            ("prompt", "target_new"),
            unused=(*_LABELS, "cond", "pred", "portability.Recalled Relation"),
        ),
        _by_keys(
            "knowedit",
            formats.easyedit,
            ("text", "labels"),
            ("question", "target_new"),
            unused=_LABELS,
        ),
        _by_keys(
            "mquake",
            formats.mquake,
            ("requested_rewrite", "questions", "new_answer"),
            unused=(
                *("case_id", "answer", "answer_alias", "single_hops", "orig"),
                *("new_single_hops.cloze", "requested_rewrite.relation_id", *_TARGETS),
            ),
        ),
        _by_object(
            "rome",
            formats.rome,
            ("requested_rewrite", "paraphrase_prompts"),
            unused=(
                *("case_id", "pararel_idx", "attribute_prompts", "generation_prompts"),
                *("requested_rewrite.relation_id", *_TARGETS),
            ),
        ),
        _by_keys(
            "wikibigedit",
            formats.wikibigedit,
            ("update", "ans"),
            unused=(*_LABELS, "tag", "rel", "relation", "object"),
        ),
        _by_object(
            "rippleedits",
            formats.rippleedits,
            ("edit", formats.RIPPLES_LOCAL[0]),
            unused=(
                *("example_type", "edit.subject_id", "edit.relation"),
                *(
                    f"edit.{fact}.{key}"
                    for fact in ("original_fact", "previous_fact")
                    for key in ("subject_id", "relation", "target_id")
                ),
                *(
                    f"{test}.{key}"
                    for test in (*formats.RIPPLES_LOCAL, *formats.RIPPLES)
                    for key in (
                        *("test_condition", "condition_queries"),
                        *(f"test_queries.{part}" for part in _QUERY),
                    )
                ),
            ),
        ),
        _by_keys("messages", formats.messages, ("messages",), unused=_LABELS),
        _by_keys("alpaca", formats.alpaca, ("instruction", "output"), unused=(*_LABELS, "text")),
        _by_keys("jsonl", formats.own, ("prompt", "target"), unused=_LABELS),
        _by_keys("csv", formats.own, ("prompt", "target"), unused=_LABELS),
    )
}
