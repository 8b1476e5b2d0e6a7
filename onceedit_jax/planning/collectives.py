"""The communication between devices in a compiled program, read from its HLO text."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}


@dataclass(frozen=True)
class Collective:
    """All operations of one kind in a program.

    Attributes:
      kind: one of `KINDS`.
      count: how often it runs.
      bytes: what a device receives in all.
    """

    kind: str
    count: int
    bytes: int


def collectives(hlo: str) -> Iterator[Collective]:
    """The communication in a compiled program, one entry for each kind.

    Args:
      hlo: `compiled.as_text()`. An operation in a loop counts as often as the loop runs, if the
        text has the number of iterations.
    """
    computations = _computations(hlo)
    runs = _runs(computations)
    totals: dict[str, list[int]] = {}
    for name, lines in computations.items():
        for line in lines:
            if match := re.search(rf"= (.+?) ({'|'.join(KINDS)})(-start)?\(", line):
                total = totals.setdefault(match[2], [0, 0])
                total[0] += runs.get(name, 1)
                total[1] += runs.get(name, 1) * _result_bytes(match[1])
    for kind, (count, size) in sorted(totals.items()):
        yield Collective(kind, count, size)


def _computations(hlo: str) -> dict[str, list[str]]:
    """The lines of each computation of a program."""
    computations: dict[str, list[str]] = {}
    current: list[str] = []
    for line in hlo.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.-]+) .*\{$", line):
            current = computations.setdefault(head[1], [])
        else:
            current.append(line)
    return computations


def _runs(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs, as far as the numbers of iterations are known."""
    calls = [
        (caller, name, trips)
        for caller, lines in computations.items()
        for line in lines
        for name, trips in _called(line)
    ]
    runs: dict[str, int] = {}
    # Computations come before their callers, so the calls are read in reverse order.
    for caller, name, trips in reversed(calls):
        runs[name] = runs.get(caller, 1) * trips
    return runs


def _called(line: str) -> Iterator[tuple[str, int]]:
    """The computations that an instruction calls, and how often."""
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
    for kind, name in re.findall(r"(body|to_apply|calls|condition)=%?([\w.-]+)", line):
        yield name, int(trips[1]) if trips and kind == "body" else 1


def _result_bytes(types: str) -> int:
    """Size of an instruction's result: one array, or a tuple of arrays."""
    return sum(
        _ITEM_BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in re.findall(r"(\w+)\[([\d,]*)\]", types)
    )
