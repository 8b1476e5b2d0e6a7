"""B10: what the checks cost while models and edited plug-ins are loaded.

Each thing is loaded as it always is, with a clock in each check: the SHA-256 of an artifact's
files and of what is kept, weights that are finite, tokens that are those of the tokenizer's own
file, and fields of files that are what they should be. Every load hashes the model's files, as a
new process does, since an artifact knows its base by this hash.

Run: python -m benchmarks.loading --edited DIR (an edited plug-in, for instance `make demo`'s)
"""

import pkgutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jax
import tyro

import onceedit_jax as oe
from benchmarks.measure import PLUGIN, REPEATS, TARGETS, write
from onceedit_jax.models.export import export_hf
from onceedit_jax.storage import converted

CHECKS = {
    "SHA-256": [
        "onceedit_jax.storage.checksums._check_sums",
        "onceedit_jax.storage.checksums._sealed_digest",
    ],
    "finite weights": [
        "onceedit_jax.models.assembly.check_finite",
        "onceedit_jax.editing.artifact_folder.check_finite_tree",
    ],
    "tokens": [
        "onceedit_jax.text.tokenizer.hold_to_file",
        "onceedit_jax.text.tokenizer.probe_text",
        "onceedit_jax.text.tokenizer.check_probe",
    ],
    "fields": ["onceedit_jax.text.tokenizer.checked_files"],
}
REACH = 0.05


def main(edited: Path) -> None:
    """Measure a Hugging Face folder, a GGUF file and an edited plug-in.

    Args:
        edited: folder of an edited plug-in; its base is loaded with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = oe.load_target(PLUGIN)
        model = target.model
        export_hf(folder, model.params, model.config, model.hf_config)
        target.tokenizer.hf.save_pretrained(folder)
        loads: dict[str, Callable[[], Any]] = {
            "SmolLM2-135M, a folder": lambda: oe.load_target(folder).model.params,
            "Gemma-3-270M, GGUF": lambda: oe.load_target(TARGETS[0]).model.params,
            "an edited plug-in and its base": lambda: oe.EditedPlugin.load(edited).params,
        }
        rows = []
        for name, load in loads.items():
            with patch.dict("os.environ", {converted.VARIABLE: "0"}):
                rows.append(_measured(f"{name}: nothing kept", load))
            rows.append(_measured(f"{name}: kept before", load))
    write(
        "loading",
        f"B10: seconds to load, and the share that the checks take (goal: {REACH:.0%} in all)",
        rows,
        "All files are in the page cache, so that reading them takes as little as it can.",
        how=f"Medians of {REPEATS} loads, warm.",
    )


def _measured(name: str, load: Callable[[], Any]) -> dict[str, Any]:
    taken = [_load(load) for _ in range(REPEATS + 1)][1:]
    seconds = statistics.median(whole for whole, _ in taken)
    shares = {
        check: statistics.median(100 * spent[check] / whole for whole, spent in taken)
        for check in CHECKS
    }
    together = statistics.median(100 * sum(spent.values()) / whole for whole, spent in taken)
    return {
        "loaded": name,
        "seconds": seconds,
        **{f"{check}, %": share for check, share in shares.items()},
        "all, %": together,
    }


def _load(load: Callable[[], Any]) -> tuple[float, dict[str, float]]:
    """Seconds of one load, and of each check in it."""
    spent = dict.fromkeys(CHECKS, 0.0)
    converted._content_hash.cache_clear()
    with ExitStack() as stack:
        for check, functions in CHECKS.items():
            for function in functions:
                timed = _timed(pkgutil.resolve_name(function), spent, check)
                stack.enter_context(patch(function, timed))
        begun = time.perf_counter()
        jax.block_until_ready(load())
        return time.perf_counter() - begun, spent


def _timed(run: Callable[..., Any], spent: dict[str, float], check: str) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        try:
            return run(*args, **kwargs)
        finally:
            spent[check] += time.perf_counter() - begun

    return timed


if __name__ == "__main__":
    tyro.cli(main)
