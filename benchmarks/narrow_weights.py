"""B11: a target's weights in fewer bits beside float32: distributions, speed and memory.

Each type has a process of its own, so that its memory can be read. All of them wait while one is
timed, and they take turns. The layers are as `Ensemble.unrolled_for` has them for many steps:
unrolled where that repays. Run: python -m benchmarks.narrow_weights
"""

import statistics
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro

import onceedit_jax as oe
from benchmarks.measure import LARGE, write
from benchmarks.steps import decoding_seconds, random_prompts, writing
from onceedit_jax.distributed.bucketing import batch_of
from onceedit_jax.ensemble.side import reference_texts
from onceedit_jax.models.decoder import forward
from onceedit_jax.models.layout import repays_unrolling, unstack_layers

MANY = 10**6  # steps that repay any compilation
LENGTHS = (8, 128)  # of prompts, in tokens
STEPS = 17  # of decoding
TEXTS = 12  # whose next-token distributions are compared
REPEATS = 3
LAYOUTS = ("stacked", "unrolled")


def main(
    target: str = LARGE,
    dtypes: tuple[str, ...] = ("int8", "bfloat16"),
) -> None:
    """Compare types of weights with float32.

    Args:
        target: the model.
        dtypes: of its weights.
    """
    layouts = [("float32", True), ("float32", False)]
    rows: dict[tuple[str, bool], dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        exact = _Worker(target, "float32", Path(folder))
        for dtype in dtypes:
            worker = _Worker(target, dtype, Path(folder))
            # Later types are compared with the faster layout of float32 alone.
            own = [(dtype, True)] if worker.ask("unrolls") else [(dtype, False)]
            taken: dict[tuple[str, bool], list[dict[str, float]]] = {}
            measured = [*(each for each in layouts if each[1] or not rows), *own]
            for turn in range(REPEATS + 1):
                for each in measured:
                    found = (worker if each in own else exact).ask(LAYOUTS[each[1]])
                    if turn:  # the first compiles
                        taken.setdefault(each, []).append(found)
            seconds = {each: _medians(found) for each, found in taken.items()}
            for each in measured:
                memory = (worker if each in own else exact).memory()
                rows.setdefault(each, _row(*each, seconds[each], seconds, memory))
            for each in (exact, worker):
                each.ask("distributions")
            variation, same = _compared(Path(folder), dtype)
            rows[own[0]] |= {"total variation": variation, "same token": same}
            worker.end()
        exact.end()
    write(
        "narrow_weights",
        f"B11: {target} with weights in fewer bits, beside float32 (batch 1)",
        list(rows.values()),
        "Ratios are to unrolled float32 layers, the faster layout of float32, measured in the same "
        "turns; above 1 is faster. Goals for int8: decode 1.8, prefill 1.0, 2.2 GB. Memory is what "
        "is resident of the process, the mapped file of the kept weights included, after loading "
        "and at its highest while it runs. The last columns are of the next-token distributions "
        f"at each place in {TEXTS} texts of the package.",
        how=f"Medians of {REPEATS} runs in turns, warm.",
    )


class _Worker:
    """A process with one model."""

    def __init__(self, target: str, dtype: str, folder: Path) -> None:
        spawned = get_context("spawn")
        # Another process first keeps the weights, so that this one is a later start.
        keeping = spawned.Process(target=_keep, args=(target, dtype))
        keeping.start()
        keeping.join()
        self._pipe, other = spawned.Pipe()
        self._process = spawned.Process(target=_serve, args=(other, target, dtype, folder))
        self._process.start()

    def ask(self, what: str) -> Any:
        """The answer of `_serve`; raises EOFError where the process has ended."""
        self._pipe.send(what)
        return self._pipe.recv()

    def memory(self) -> dict[str, float]:
        """See `_memory`."""
        found: dict[str, float] = self.ask("memory")
        return found

    def end(self) -> None:
        """End the process."""
        self._pipe.send("end")
        self._process.join()


def _keep(target: str, dtype: str) -> None:
    oe.load_target(target, dtype=dtype)


def _serve(pipe: Any, target: str, dtype: str, folder: Path) -> None:
    loaded = oe.load_target(target, dtype=dtype)
    params, config = loaded.model.params, loaded.model.config
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far
    after = _memory()["resident"]
    layouts = dict(zip(LAYOUTS, (params, unstack_layers(params)), strict=True))
    while (asked := pipe.recv()) != "end":
        if asked == "unrolls":
            pipe.send(repays_unrolling(params, MANY))
        elif asked == "memory":
            pipe.send({"loaded, GB": after, "highest, GB": _memory()["highest"]})
        elif asked == "distributions":
            rows = [loaded.tokenizer.encode(text) for text in reference_texts()[:TEXTS]]
            tokens, positions = batch_of(rows, largest=TEXTS)
            logits = jax.jit(forward, static_argnums=1)(params, config, tokens, positions)[0]
            np.save(folder / f"{dtype}.npy", jax.nn.softmax(logits[positions >= 0]))
            pipe.send(True)
        else:
            pipe.send(_seconds(layouts[asked], config))


def _seconds(params: Any, config: Any) -> dict[str, float]:
    """Of one prefill of each length, and of a step of decoding after the shortest prompt."""
    found = {}
    for length in LENGTHS:
        runs = writing(params, config, random_prompts(config, 1, length), steps=STEPS)
        found[f"prefill {length}"] = first = _timed(runs["first"])
        if length == LENGTHS[0]:
            found["decode"] = decoding_seconds(first, _timed(runs["whole"]), STEPS)
    return found


def _timed(run: Any) -> float:
    begun = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begun


def _memory() -> dict[str, float]:
    """What is resident of this process, and the most that was, in GB."""
    lines = dict(
        line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if line
    )
    names = {"resident": "VmRSS", "highest": "VmHWM"}
    return {name: int(lines[key].split()[0]) / 1e6 for name, key in names.items()}


def _medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _row(
    dtype: str,
    unrolled: bool,
    seconds: Mapping[str, float],
    all_seconds: Mapping[tuple[str, bool], Mapping[str, float]],
    memory: Mapping[str, float],
) -> dict[str, Any]:
    base = all_seconds["float32", True]
    row: dict[str, Any] = {"weights": dtype, "layers": LAYOUTS[unrolled]}
    for name, value in seconds.items():
        row |= {f"{name}, ms": 1e3 * value, f"{name}, ratio": base[name] / value}
    return {**row, **memory, "total variation": "", "same token": ""}


def _compared(folder: Path, dtype: str) -> tuple[float, float]:
    """Mean total variation of float32, and the share of equal most likely tokens."""
    exact, narrow = (np.load(folder / f"{each}.npy", "r") for each in ("float32", dtype))
    variation = [np.abs(one - other).sum() / 2 for one, other in zip(exact, narrow, strict=True)]
    return float(np.mean(variation)), float(np.mean(exact.argmax(-1) == narrow.argmax(-1)))


if __name__ == "__main__":
    tyro.cli(main)
