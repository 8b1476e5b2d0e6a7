"""What the benchmarks share: timing side by side, and the files in benchmarks/results/.

Absolute times on a shared machine mean little. The candidates of a comparison therefore run in
turns in one process, warm, and are reported as a ratio of medians.
"""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.framework.results import commit
from onceedit_jax.storage.text_files import write_whole
from onceedit_jax.storage.versions import machine, versions

PLUGIN = "demo:smollm2-135m"
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")
LARGE = "demo:qwen2.5-coder-1.5b"
RESULTS = Path(__file__).parent / "results"
REPEATS = 5


def seconds_each(
    candidates: Mapping[str, Callable[[], Any]], *, repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds of each candidate: once to warm up, then in turns, `repeats` times."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for turn in range(repeats + 1):
        for name, run in candidates.items():
            begun = time.perf_counter()
            jax.block_until_ready(run())
            if turn:
                taken[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in taken.items()}


class Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self.laps: list[float] = []
        self._last = time.perf_counter()

    def begin(self) -> None:
        """Begin a lap."""
        self._last = time.perf_counter()

    def lap(self, *, counts: bool) -> None:
        """End a lap, and begin the next one."""
        now = time.perf_counter()
        if counts:
            self.laps.append(now - self._last)
        self._last = now


def write(
    name: str,
    title: str,
    rows: Sequence[Mapping[str, Any]],
    notes: str = "",
    *,
    how: str = f"Medians of {REPEATS} runs in turns, warm.",
) -> None:
    """Write `results/NAME.json` and `results/NAME.md`, and print the latter.

    Args:
      name: of the files.
      title: what was measured, one line.
      rows: one mapping a measurement, all with the same keys.
      notes: what a reader has to know besides.
      how: the figures were taken.
    """
    about = conditions()
    body = [table(rows), f"{_machine(about)} {how}", notes]
    values = {"title": title, "rows": list(rows), **about}
    print(save(RESULTS, name, values, [f"# {title}", *body]))


def conditions() -> dict[str, Any]:
    """What figures depend on: machine, versions and commit."""
    return {"machine": machine(), "versions": versions(), "commit": commit()}


def _machine(about: Mapping[str, Any]) -> str:
    host, packages = about["machine"], about["versions"]
    return (
        f"{host['processor']}, {host['cores']} cores, load {host['load']:.1f}; "
        f"{', '.join(sorted(set(host['devices'])))}; jax {packages['jax']}."
    )


def save(folder: Path, name: str, values: Mapping[str, Any], page: Sequence[str]) -> str:
    """Write `NAME.json` from JSON values and `NAME.md` from paragraphs; gives the page's text."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    write_whole(path, json.dumps(values, indent=2) + "\n")
    text = "\n\n".join(part for part in page if part) + "\n"
    write_whole(path.with_suffix(".md"), text)
    return text


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of measurements; a cell is empty where a row lacks what another one has."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(_text(row.get(key, "")) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
