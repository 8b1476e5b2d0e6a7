"""Reads the rows of a source: a JSON list, JSON lines, CSV, parquet, or a data set of the hub.

The package `datasets` reads hub data sets. It does not read files: it turns dates and numbers in
text columns into other types, fills short CSV rows with blanks, and its errors name no line. An
edit's answer must arrive as it is written ("007", "2019-05-03"), and an error must name its line.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from onceedit_jax.data.rows import Row, Written, to_row
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import LARGE, once_each, one_line, read_bytes
from onceedit_jax.storage.schema import shown

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.-]+)?")
_NOT_BLANK = re.compile(r"[^ \t\r\n]")
_MOST_TEXT = 8 * LARGE  # bytes of a file that is read whole; WikiBigEdit has half a gigabyte
_PARQUET_ROWS = 64  # that are in memory at once


def read_rows(source: str | Path) -> Iterator[Row]:
    """The rows of a file or hub data set, in order.

    Args:
      source: a file (.json list, .jsonl, .csv, .parquet), or a hub name, `NAME[:SPLIT]`.

    Raises:
      InputError: no such source, or one that cannot be read; it names file and line.
    """
    for place, value in _values(source):
        yield to_row(place, value)


def _values(source: str | Path) -> Iterator[tuple[str, Any]]:
    path = Path(source)
    kind = path.suffix.lower()
    if path.is_file():
        if kind not in _FILE_READERS:
            raise InputError(f"{path}: expected a file of type {', '.join(_FILE_READERS)}")
        return _FILE_READERS[kind](path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give the file in it")
    if kind in _FILE_READERS or not _HUB_NAME.fullmatch(str(source)):
        raise InputError(f"{source}: no such file; give a file or a data set's hub name")
    return _hub_values(str(source))


def _file_text(path: Path) -> str:
    data = read_bytes(path, most=_MOST_TEXT)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 ({error.reason}); save it as UTF-8") from error


def _json_list(path: Path) -> Iterator[tuple[str, Any]]:
    """Items of a JSON list, each with the line in which it begins."""
    text = _file_text(path)
    decoder = json.JSONDecoder(parse_float=Written, object_pairs_hook=once_each)

    def skip_blanks(at: int) -> int:
        match = _NOT_BLANK.search(text, at)
        return match.start() if match else len(text)

    def place(at: int) -> str:
        return f"{path}:{text.count(chr(10), 0, at) + 1}"

    at = skip_blanks(0)
    if text[at : at + 1] != "[":
        raise InputError(
            f"{place(at)}: expected a JSON list, found {text[at : at + 20]!r}; a file with one "
            "object a line is called .jsonl"
        )
    at = skip_blanks(at + 1)
    line, counted = 1, 0
    more = text[at : at + 1] != "]"
    while more:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise _not_json(path, getattr(error, "lineno", line), error) from error
        yield f"{path}:{line}", value
        at = skip_blanks(at)
        if text[at : at + 1] not in (",", "]"):
            raise InputError(
                f"{place(at)}: expected a comma or the list's end, found {text[at : at + 20]!r}; "
                "is the file complete?"
            )
        more = text[at] == ","
        at = skip_blanks(at + 1) if more else at
    at = skip_blanks(at + 1)
    if at < len(text):
        raise InputError(f"{place(at)}: expected nothing after the list, found text")


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # Not `splitlines`: JSON strings may hold U+2028 and other line ends of Unicode.
    for number, line in enumerate(_file_text(path).split("\n"), 1):
        if line.strip():
            try:
                value = json.loads(line, parse_float=Written, object_pairs_hook=once_each)
            except (ValueError, RecursionError) as error:
                raise _not_json(path, number, error) from error
            yield f"{path}:{number}", value


def _not_json(path: Path, line: int, error: Exception) -> InputError:
    if isinstance(error, json.JSONDecodeError):
        return InputError(f"{path}:{line}: not JSON: {error.msg} at column {error.colno}")
    return InputError(f"{path}:{line}: not JSON: {error}")


def _csv_rows(path: Path) -> Iterator[tuple[str, Any]]:
    reader = csv.reader(io.StringIO(_file_text(path), newline=""), strict=True)
    header: list[str] | None = None
    first = 1
    try:
        for cells in reader:
            place, first = f"{path}:{first}", reader.line_num + 1
            if not any(cells):
                continue
            if header is None:
                header = [cell.strip() for cell in cells]
                if len(set(header)) < len(header) or "" in header:
                    raise InputError(
                        f"{place}: column names are blank or repeated: {shown(header)}"
                    )
            elif len(cells) != len(header):
                raise InputError(
                    f"{place}: {len(cells)} cells, but {len(header)} columns "
                    f"({shown(', '.join(header))}); put text that holds commas in double quotes"
                )
            else:
                yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}:{first}: not CSV ({error})") from error


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    from pyarrow.parquet import ParquetFile  # slow to import, and only these files need it

    try:
        with ParquetFile(path) as file:
            meta = file.metadata
            size = sum(meta.row_group(n).total_byte_size for n in range(meta.num_row_groups))
            if size > LARGE:
                raise InputError(
                    f"{path}: unpacks to {size} bytes; expected at most {LARGE}: give a part of it"
                )
            number = unpacked = 0
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                # What a file says of its size is no more than a claim.
                unpacked += batch.nbytes
                if unpacked > LARGE:
                    raise InputError(
                        f"{path}: unpacks to more than {LARGE} bytes: give a part of it"
                    )
                for value in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", value
    except InputError:
        raise
    except Exception as error:  # values may be of types that Python or this machine does not have
        raise InputError(
            f"{path}: cannot be read as parquet ({one_line(error)}); is the file complete?"
        ) from error


_FILE_READERS: dict[str, Callable[[Path], Iterator[tuple[str, Any]]]] = {
    ".json": _json_list,
    ".jsonl": _json_lines,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def _hub_values(source: str) -> Iterator[tuple[str, Any]]:
    import datasets  # slow to import, and only a hub name needs it

    name, _, split = source.partition(":")
    try:
        loaded = datasets.load_dataset(name, split=split or None)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{source}: neither a file nor a data set that could be read from the hub ({reason}). "
            "Check the name and the network, or give a file"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if len(loaded) != 1:
            raise InputError(
                f"{source}: has the splits {', '.join(loaded)}; choose one, as in "
                f"{name}:{next(iter(loaded))}"
            )
        loaded = next(iter(loaded.values()))
    for number, row in enumerate(loaded, 1):
        yield f"{source}, row {number}", row
