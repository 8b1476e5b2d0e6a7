"""How fast a GPU or a TPU runs a pair: decoding, prefill, fused steps, drafts, editing, tables.

One command, ten minutes at most, without network and weights: models of real shapes get random
weights. Needs jax for the device, flax, optax, orbax-checkpoint, transformers, safetensors,
huggingface_hub, numpy, jaxtyping, lazy-loader, pyyaml and filelock, and no installation of this
checkout. Every figure is written as soon as it is measured; what fails (memory that is too small,
for instance) is a line that says so, and the rest goes on.

Run, in a checkout: python -m benchmarks.accelerator
Try it first, with tiny models and on any device: python -m benchmarks.accelerator --tiny
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.extend.backend import get_backend

from benchmarks.accelerator_bench import (
    TINY_SIZES,
    Bench,
    Measurement,
    Pair,
    Part,
    Row,
    Sizes,
    pairs,
)
from benchmarks.accelerator_fusion import DRAFTS, FUSED, SEARCHED
from benchmarks.accelerator_parts import (
    DECODING,
    OTHER_WAYS,
    PREFILL,
    SAME_TOKENS,
    TABLES,
    TRAINING,
)
from benchmarks.measure import RESULTS, conditions, save, table
from onceedit_jax.planning.hardware import Chip, chip_of

TITLE = "A pair on an accelerator"
PARTS = (DECODING, PREFILL, SAME_TOKENS, FUSED, DRAFTS, TRAINING, TABLES, OTHER_WAYS, SEARCHED)
DRIVER = Path("/proc/driver/nvidia/version")
FAILED = "failed"  # the key of a row that has a reason in place of figures
PEAKS = ("name", "bandwidth", "flops", "source")  # of a chip, in the results
LONGEST = 300  # characters of an error that a page has


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for, and write the results."""
    asked = _parsed(arguments)
    kind = jax.devices()[0].device_kind
    chip = chip_of(kind)
    if asked.peak_bandwidth is not None:
        size = float("nan")  # of memory and links, which nothing here reads
        figures = asked.peak_flops, asked.peak_bandwidth
        chip = Chip(kind, size, *figures, size, "named on the command line")
    parts = [part for part in PARTS if part.name in (asked.parts or [part.name])]
    bench = Bench(TINY_SIZES if asked.tiny else Sizes(), chip)
    folder = asked.out or (Path("runs/accelerator") if asked.tiny else RESULTS)
    page = Page(folder, bench, tiny=asked.tiny)
    measure(bench, in_order(parts, pairs(tiny=asked.tiny)), page, seconds=60 * asked.minutes)
    print(page.save())


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    # The standard library's: what a machine of others lacks has to be carried there.
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accelerator", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--minutes", type=float, default=10, help="time for all (default: 10)")
    parser.add_argument("--tiny", action="store_true", help="tiny models, into runs/accelerator")
    parser.add_argument("--out", type=Path, help="folder of the results")
    names = [part.name for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, help="only these (default: all)")
    peak = parser.add_argument_group("peaks, of a device that onceedit plan does not know")
    peak.add_argument("--peak-bandwidth", type=float, help="bytes a second of its memory")
    peak.add_argument("--peak-flops", type=float, help="dense bfloat16 operations a second")
    asked = parser.parse_args(arguments)
    if (asked.peak_bandwidth is None) != (asked.peak_flops is None):
        parser.error("--peak-bandwidth and --peak-flops: give both, or neither")
    return asked


def in_order(parts: Sequence[Part], every: Sequence[Pair]) -> list[tuple[Part, Pair]]:
    """Each part with each of its pairs, those of most worth first."""
    stages: list[tuple[tuple[Part, ...], Sequence[Pair]]] = [
        ((DECODING, PREFILL), every),
        ((SAME_TOKENS,), every[-1:]),  # both families
        ((FUSED, DRAFTS, TABLES, TRAINING), every),
        ((OTHER_WAYS, SEARCHED), every[:1]),
    ]
    return [(part, pair) for group, of in stages for pair in of for part in group if part in parts]


def measure(
    bench: Bench, todo: Sequence[tuple[Part, Pair]], page: "Page", *, seconds: float
) -> None:
    """Measure row by row, and write each as it comes.

    Args:
      bench: the device, sizes and weights.
      todo: parts and pairs in their order.
      page: where rows go.
      seconds: nothing is begun that would end after so many, if it took as long as the longest so
        far.
    """
    begun, longest = time.monotonic(), 0.0
    for part, pair in todo:
        bench.use(pair)
        for labels, run in _measurements(bench, part, pair):
            start = time.monotonic()
            if start - begun + longest > seconds:
                found = {FAILED: f"not begun, for the {seconds / 60:g} minutes were over"}
            else:
                found = _tried(bench, run)
                longest = max(longest, time.monotonic() - start)
            page.add(part, {**labels, **found})


def _measurements(bench: Bench, part: Part, pair: Pair) -> Iterator[Measurement]:
    try:
        yield from part.measurements(bench, pair)
    except Exception as error:  # the other parts go on
        found = _failure(error)
        yield Measurement({"pair": pair.name}, lambda: found)


def _tried(bench: Bench, run: Callable[[], Row]) -> Row:
    """The figures of a measurement; what failed has the reason in their place."""
    try:
        return run()
    except Exception as error:  # a device raises what it likes
        found = _failure(error)
    bench.drop()  # the next one begins with free memory
    return found


def _failure(error: Exception) -> Row:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    return {FAILED: reason[:LONGEST]}


class Page:
    """The results so far; they are in the files after every row."""

    def __init__(self, folder: Path, bench: Bench, *, tiny: bool) -> None:
        """Begin without rows.

        Args:
          folder: of the files.
          bench: with the device's peaks, if they are known.
          tiny: whether the models are tiny ones, for a trial.
        """
        self.folder, self.tiny = folder, tiny
        self.chip, self.repeats = bench.chip, bench.sizes.repeats
        self.about = {"device": device(), **conditions()}
        self.begun = time.monotonic()
        self.parts: dict[Part, list[Row]] = {}

    def add(self, part: Part, row: Row) -> None:
        """Print a row, and write all rows so far."""
        self.parts.setdefault(part, []).append(row)
        print(f"{part.name}:", json.dumps(row), flush=True)
        self.save()

    def save(self) -> str:
        """Write the files; gives the page's text."""
        values = {
            "title": TITLE,
            "tiny": self.tiny,
            "seconds": time.monotonic() - self.begun,
            "peaks": self.chip and {key: getattr(self.chip, key) for key in PEAKS},
            "parts": {part.name: rows for part, rows in self.parts.items()},
            **self.about,
        }
        sections = [text for part, rows in self.parts.items() for text in _section(part, rows)]
        return save(self.folder, "accelerator", values, [f"# {TITLE}", *self._head(), *sections])

    def _head(self) -> list[str]:
        """What the figures depend on, in words."""
        found, packages = self.about["device"], self.about["versions"]
        names = ("jax", "jaxlib", "flax", "python")
        libraries = ", ".join(f"{name} {packages[name]}" for name in names)
        where = dict.fromkeys(found[key] for key in ("kind", "version", "driver") if found[key])
        peaks = (
            "The peaks of this device are not known here, so there are no shares of them."
            if self.chip is None
            else f"Peaks: {self.chip.bandwidth / 1e12:.4g} TB/s and {self.chip.flops / 1e12:.4g} "
            f"TFLOP/s in dense bfloat16 ({self.chip.source}). `plan` is the least time by these "
            "peaks, as `onceedit plan` computes it (`onceedit_jax/planning/costs.py`)."
        )
        trial = "**A trial with tiny models: the figures mean nothing.**" if self.tiny else ""
        how = (
            f"Random weights, {'tiny' if self.tiny else 'published'} shapes, one device. "
            f"Medians of {self.repeats} runs, after one to warm up. "
            f"{(time.monotonic() - self.begun) / 60:.1f} minutes in all."
        )
        return [trial, f"{', '.join(where)}; {libraries}.", peaks, how]


def _section(part: Part, rows: Sequence[Row]) -> list[str]:
    measured = [row for row in rows if FAILED not in row]
    failed = [
        "- " + ", ".join(f"{key} {value}" for key, value in row.items() if key != FAILED)
        + f": {row[FAILED]}"
        for row in rows
        if FAILED in row
    ]  # fmt: skip
    listed = "Not measured:\n\n" + "\n".join(failed) if failed else ""
    return [f"## {part.heading}", table(measured) if measured else "", part.note, listed]


def device() -> dict[str, Any]:
    """The device, its platform's version and its driver, and the memory that JAX may use."""
    one = jax.devices()[0]
    version = get_backend().platform_version.replace("\n", ", ")
    return {
        "kind": one.device_kind,
        "version": version,
        "driver": DRIVER.read_text().partition("\n")[0] if DRIVER.exists() else None,
        "memory": (one.memory_stats() or {}).get("bytes_limit"),
    }


if __name__ == "__main__":
    main()
