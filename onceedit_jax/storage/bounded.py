"""Read files of others within bounds: regular files, of bounded size, and parsers that may fail.

What a parser of another library throws becomes an `InputError` here; a Rust panic too, which is no
`Exception`.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml

from onceedit_jax.errors import InputError, OnceEditError
from onceedit_jax.storage.schema import Mismatch, check_depth, shown

MEBIBYTE = 1 << 20
SMALL = 16 * MEBIBYTE  # config.json and its like; real ones have some kilobytes
LARGE = 512 * MEBIBYTE  # tokenizer.json, edit.json; real ones have up to 40 MB
_DEPTH_OF_YAML = 32
_LONGEST_NUMBER = 100  # characters; a number of YAML in base 60 takes the square of its length
_OTHER_BASE = re.compile(r"[-+]?0[0-7_]+|.*:.*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # an escape that stands for half of a character

_SILENT = threading.RLock()


def check_regular(path: Path, *, inside: Path | None = None) -> os.stat_result:
    """Refuse what is not a regular file: reading a FIFO or a device may never end.

    Args:
      path: the file.
      inside: the folder of a model; no link, to the file or on the way to it, may lead out. The
        cache of the hub's client keeps a model's files in `blobs` beside its `snapshots`, and
        links to them are followed.

    Returns:
      What the system knows of the file.

    Raises:
      InputError: it is something else, or its link leads out of the folder.
      FileNotFoundError: there is no such file.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{path}: is {_kind(found.st_mode)}; expected a regular file: fetch the file again"
        )
    if inside is not None:
        real, home = path.resolve(), inside.resolve()
        within = [each for each in (home, *home.parents) if each.parent.name == "snapshots"]
        homes = [home, *(each.parent.parent / "blobs" for each in within)]
        if not any(real.is_relative_to(folder) for folder in homes):
            raise InputError(
                f"{path}: is a link to {real}, out of its folder; expected a file of the model: "
                "copy the file here"
            )
    return found


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON by its keys and values, for `object_pairs_hook`.

    Raises:
      ValueError: a key is there twice.
    """
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {shown(twice)} is there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _kind(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "a FIFO", stat.S_ISDIR: "a folder", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def read_bytes(path: Path, *, most: int, inside: Path | None = None) -> bytes:
    """The content of a regular file.

    Raises:
      InputError: it is something else, has more than `most` bytes, or cannot be read.
      FileNotFoundError: there is no such file.
    """
    try:
        size = check_regular(path, inside=inside).st_size
        if size > most:
            raise InputError(
                f"{path}: has {size} bytes; expected at most {most} in such a file: fetch it again"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # no file has such a name
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"{path}: cannot be read ({reason}); check its name and its permissions"
        ) from error


def read_text(path: Path, *, most: int = SMALL, inside: Path | None = None) -> str:
    """The text of a regular file in UTF-8.

    Raises:
      InputError: as `read_bytes`, or it is not UTF-8.
      FileNotFoundError: there is no such file.
    """
    data = read_bytes(path, most=most, inside=inside)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: byte {error.start} is not UTF-8; expected text: fetch the file again"
        ) from error


def read_json(path: Path, *, most: int = SMALL, inside: Path | None = None) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      InputError: as `read_text`; or it is not JSON, no object, or nested too deeply.
      FileNotFoundError: there is no such file.
    """
    return parse_json(read_text(path, most=most, inside=inside), path)


def parse_json(text: str, place: object) -> dict[str, Any]:
    """The object in a text.

    Args:
      text: the text.
      place: where it comes from, for messages.

    Raises:
      InputError: it is not JSON, no object, or nested too deeply; an object has a key twice, of
        which one would be ignored; or a text holds half of a character.
    """
    try:
        values = json.loads(text, parse_constant=_no_constant, object_pairs_hook=once_each)
        check_depth(values)
        if _HALF.search(text):
            json.dumps(values, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise InputError(
            f"{place}: not JSON (line {error.lineno}: {error.msg}); fetch or write the file again"
        ) from error
    except UnicodeEncodeError as error:
        raise InputError(
            f"{place}: {error.object[error.start]!a} is half of a character; expected whole "
            "ones: fetch or write the file again"
        ) from error
    except (ValueError, RecursionError, Mismatch) as error:
        raise InputError(f"{place}: not JSON ({error}); fetch or write the file again") from error
    if not isinstance(values, dict):
        raise InputError(
            f"{place}: holds a {type(values).__name__}; expected a JSON object: fetch or write the "
            "file again"
        )
    return values


def parse_yaml(text: str, place: object) -> Any:
    """The value of a YAML text.

    Aliases are refused: each stands for a copy, and a few lines of them for more than fits memory.
    So are keys that are there twice, of which one would be ignored.

    Raises:
      InputError: naming the place and the line.
    """
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, loader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent):
                raise InputError(
                    f"{place}, line {line}: an alias; expected plain YAML: write it out"
                )
            if depth > _DEPTH_OF_YAML:
                raise InputError(
                    f"{place}, line {line}: nested too deeply; expected at most {_DEPTH_OF_YAML} "
                    "levels: correct the file"
                )
        reader = loader(text)
        if (node := reader.get_single_node()) is None:
            return None
        _check_nodes(node, place)
        return reader.construct_document(node)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{place}, line {mark.line + 1}" if mark else f"{place}"
        raise InputError(f"{where}: not YAML ({error.problem}); correct the file") from error
    except Exception as error:  # dates, numbers and keys that Python's types refuse
        raise InputError(f"{place}: not YAML ({one_line(error)}); correct the file") from error


def _check_nodes(node: yaml.Node, place: object) -> None:
    """Refuse keys that are there twice, and numbers that nobody meant."""
    line = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        if not node.tag.endswith(":str") and len(node.value) > _LONGEST_NUMBER:
            raise InputError(
                f"{place}, line {line}: a number or date of {len(node.value)} characters; expected "
                f"at most {_LONGEST_NUMBER}: put text in quotes"
            )
        if node.tag.endswith(":int") and _OTHER_BASE.fullmatch(node.value):
            raise InputError(
                f"{place}, line {line}: YAML reads {node.value} as a number of base 8 or 60; "
                "expected a decimal number: put text in quotes"
            )
    elif isinstance(node, yaml.MappingNode):
        try:
            once_each([(key.value, None) for key, _ in node.value if key.id == "scalar"])
        except ValueError as error:
            raise InputError(
                f"{place}, line {line}: {error}; expected it once: correct the file"
            ) from error
        for pair in node.value:
            for each in pair:
                _check_nodes(each, place)
    elif isinstance(node, yaml.SequenceNode):
        for each in node.value:
            _check_nodes(each, place)


@contextmanager
def foreign(place: object, remedy: str, *, silent: bool = False) -> Iterator[None]:
    """Turn what another library throws at a file into an error that names the file.

    Args:
      place: the file.
      remedy: what to do.
      silent: whether standard error is closed meanwhile: a Rust panic prints lines there.

    Raises:
      InputError: the library failed, by an exception or by a Rust panic.
    """
    try:
        with _silence() if silent else nullcontext():
            yield
    except (OnceEditError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{place}: cannot be read ({one_line(error)}); {remedy}") from error


@contextmanager
def _silence() -> Iterator[None]:
    """Let this process write nothing to standard error, whichever library does."""
    with _SILENT:  # of two threads, the second must not keep the first one's silence
        try:
            kept = os.dup(2)
        except OSError:  # a process without standard error is silent
            yield
            return
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)


def one_line(error: BaseException) -> str:
    """The first line of an error's text, or else its class."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def memory() -> int:
    """Bytes that this process could have at most: of the machine, or of the limit set for it."""
    try:
        import resource  # not on every system

        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, AttributeError):
        return 2**63
    return total if limit == resource.RLIM_INFINITY else min(total, limit)
