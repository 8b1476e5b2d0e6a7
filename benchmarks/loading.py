"""B10: what the checks cost while models and edited plug-ins are loaded.

Each thing is loaded with all checks, and with one of them made to do nothing: the SHA-256 of an
artifact's files, weights that are finite, tokens that are those of the tokenizer's own file. Every
load hashes the model's files, as a new process does, since an artifact knows its base by this hash.

Run: python -m benchmarks.loading --edited DIR (an edited plug-in, for instance `make demo`'s)
"""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import tyro

import onceedit_jax as oe
from benchmarks.measure import PLUGIN, TARGETS, seconds_each, write
from onceedit_jax.models.export import export_hf
from onceedit_jax.storage import converted

CHECKS = {
    "SHA-256": ["onceedit_jax.storage.checksums._check_sums"],
    "finite weights": [
        "onceedit_jax.models.assembly.check_finite",
        "onceedit_jax.editing.artifact_folder.check_finite_tree",
    ],
    "tokens": ["onceedit_jax.text.tokenizer.check_probe"],
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
        rows = [_measured(name, load) for name, load in loads.items()]
    write(
        "loading",
        f"B10: seconds to load, and the share that the checks take (goal: {REACH:.0%} in all)",
        rows,
        "All files are in the page cache, so that reading them takes as little as it can.",
    )


def _measured(name: str, load: Callable[[], Any]) -> dict[str, Any]:
    candidates = {"as it is": _without([], load)} | {
        check: _without(functions, load) for check, functions in CHECKS.items()
    }
    candidates["none"] = _without([f for each in CHECKS.values() for f in each], load)
    taken = seconds_each(candidates)
    whole = taken["as it is"]
    shares = {f"{check}, %": 100 * (whole - taken[check]) / whole for check in CHECKS}
    return {"loaded": name, "seconds": whole, **shares, "all, %": 100 * (1 - taken["none"] / whole)}


def _without(functions: Sequence[str], load: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        converted._content_hash.cache_clear()
        with ExitStack() as stack:
            for function in functions:
                stack.enter_context(patch(function, lambda *_, **__: None))
            return load()

    return run


if __name__ == "__main__":
    tyro.cli(main)
