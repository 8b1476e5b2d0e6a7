"""Mutators: bytes in, other bytes out, by a generator of random numbers and nothing else."""

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

Mutator = Callable[[bytes, np.random.Generator], bytes]

_NUMBERS = (0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    "", " ", "\x00", "\x1b[31mred", "‮", "é" * 300, "x" * 70_000, "../../outside", "/dev/zero",
    "<script>alert(1)</script>", "NaN", "{0}", "\ud800", "model.safetensors",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"),
    2**31, 2**63, 2**64, 10**30, [], {}, [None], {"a": 1}, *_TEXTS,
)  # fmt: skip
_YAML = (
    b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", b"? [1]\n: 2\n", b"\t- x\n", b"<<: 1\n",
    b"x: !!python/object/apply:os.getcwd []\n", b"---\n", b"[" * 5000, b"x: .nan\n", b"x: 0x7f\n",
    b"? \n", b"x: 2001-01-01\n", b"plugin: [a, b]\n", b"%YAML 9.9\n",
)  # fmt: skip
_DEPTH = 200


def bytes_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Flip, set, cut, repeat, insert or overwrite bytes, mostly once."""
    changed = bytearray(data)
    for _ in range(int(rng.geometric(0.6))):
        changed = _one_change(changed, rng)
    return bytes(changed)


def _one_change(data: bytearray, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data) + 1))
    end = min(len(data), at + int(rng.integers(1, 65)))
    kind = int(rng.integers(8))
    if kind <= 1 and data:
        at = min(at, len(data) - 1)
        data[at] ^= 1 << int(rng.integers(8)) if kind == 0 else int(rng.integers(1, 256))
        return data
    if kind == 2:
        return data[:at] + data[end:]
    if kind == 3:
        return data[:end] + data[at:]
    if kind == 4:
        return data[:at]
    if kind == 5:
        return data[:at] + rng.bytes(end - at) + data[at:]
    if kind == 6:
        return data[:at] + bytes(end - at) + data[end:]
    return _with_number(data, at, rng)


def _with_number(data: bytearray, at: int, rng: np.random.Generator) -> bytearray:
    """A number that sizes often break at, in place of one that may be a size."""
    width = (2, 4, 8)[int(rng.integers(3))]
    number = _NUMBERS[int(rng.integers(len(_NUMBERS)))] % 2 ** (8 * width)
    at -= at % width
    data[at : at + width] = number.to_bytes(width, "little")
    return data


def head_of(data: bytes, rng: np.random.Generator, *, size: int = 4096) -> bytes:
    """Mostly bytes of the beginning, where a binary format says what follows."""
    if rng.random() < 0.2:
        return bytes_of(data, rng)
    return bytes_of(data[:size], rng) + data[size:]


def json_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Change values, keys and order of a JSON file; bytes, one time in four."""
    if rng.random() < 0.25:
        return bytes_of(data, rng)
    return _written(_changed(json.loads(data), rng), rng)


def json_lines_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Change one line of a file with one JSON object a line; bytes, one time in four."""
    if rng.random() < 0.25:
        return bytes_of(data, rng)
    lines = data.splitlines()
    at = int(rng.integers(len(lines)))
    lines[at] = _written(_changed(json.loads(lines[at]), rng), rng)
    return b"\n".join(lines) + b"\n"


def safetensors_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Change the header and keep its length true, or change bytes of either part."""
    if rng.random() < 0.4:
        return head_of(data, rng)
    (size,) = struct.unpack("<Q", data[:8])
    header = _written(_changed(json.loads(data[8 : 8 + size]), rng), rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def yaml_of(data: bytes, rng: np.random.Generator) -> bytes:
    """Put lines that YAML knows and plain settings do not need between the lines; or bytes."""
    if rng.random() < 0.4:
        return bytes_of(data, rng)
    lines = data.splitlines(keepends=True)
    at = int(rng.integers(len(lines) + 1))
    return b"".join([*lines[:at], _YAML[int(rng.integers(len(_YAML)))], *lines[at:]])


def _changed(values: Any, rng: np.random.Generator) -> Any:
    """The values with a change at a random place, or several."""
    values = copy.deepcopy(values)
    for _ in range(int(rng.geometric(0.6))):
        places = _places(values)
        if not places:
            return _value(values, rng)
        holder, key = places[int(rng.integers(len(places)))]
        _change(holder, key, values, rng)
    return values


def _change(holder: Any, key: Any, whole: Any, rng: np.random.Generator) -> None:
    kind = int(rng.integers(6))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[_TEXTS[int(rng.integers(len(_TEXTS)))]] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif kind == 3 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * (-1, 2, 0.5, 1000, 1.01)[int(rng.integers(5))]
    else:
        holder[key] = _value(whole, rng)


def _places(values: Any) -> list[tuple[Any, Any]]:
    """Every place in a value, as what holds it and its key or index; at most 5,000 of a kind."""
    found, level = [], [values]
    while level:
        inner = []
        for holder in level:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            found += [(holder, key) for key in keys[:5000]]
            inner += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
        level = inner if isinstance(values, dict | list) else []
    return found


def _value(whole: Any, rng: np.random.Generator) -> Any:
    """Any value: one of those that break things, another of the file, or a deep one."""
    draw = rng.random()
    if draw < 0.1:
        deep: Any = 1
        for _ in range(_DEPTH):
            deep = [deep]
        return deep
    if draw < 0.3 and (places := _places(whole)):
        holder, key = places[int(rng.integers(len(places)))]
        return copy.deepcopy(holder[key])
    return copy.deepcopy(_VALUES[int(rng.integers(len(_VALUES)))])


def _written(values: Any, rng: np.random.Generator) -> bytes:
    """As JSON, with NaN and infinity by name; sometimes with a key twice, or far too deep."""
    draw = rng.random()
    if draw < 0.02:
        return b"[" * 50_000
    text = json.dumps(values, ensure_ascii=False)
    if draw < 0.1 and isinstance(values, dict) and values:
        key = list(values)[int(rng.integers(len(values)))]
        text = f"{{{json.dumps(key)}: {json.dumps(_value(values, rng))}, {text[1:]}"
    return text.encode("utf-8", "surrogatepass")
