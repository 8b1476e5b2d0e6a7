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
from onceedit_jax.storage.versions import machine, versions

PLUGIN = "demo:smollm2-135m"
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")
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
    RESULTS.mkdir(exist_ok=True)
    host, packages = machine(), versions()
    values = {
        "title": title,
        "rows": list(rows),
        "machine": host,
        "versions": packages,
        "commit": commit(),
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    measured = (
        f"{host['processor']}, {host['cores']} cores, load {host['load']:.1f}; "
        f"{', '.join(sorted(set(host['devices'])))}; jax {packages['jax']}. {how}"
    )
    text = "\n\n".join(part for part in (f"# {title}", table(rows), measured, notes) if part) + "\n"
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of measurements that have the same keys."""
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    lines += ["| " + " | ".join(_text(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
