"""B9: seconds until `--help`, and until a first answer.

Run: python -m benchmarks.startup --edited DIR (an edited plug-in, for instance `make demo`'s)
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from benchmarks.measure import REPEATS, write

ONCEEDIT = [sys.executable, "-c", "from onceedit_jax.cli.main import run; run()"]
QUESTION = "What is the capital of Australia?"


def main(edited: Path, target: str = "demo:gemma3-270m") -> None:
    """Measure whole commands, each in its own process.

    Args:
        edited: folder of an edited plug-in.
        target: the LLM that answers.
    """
    asked = ["generate", "--edited", str(edited), "--target", target, "--prompt", QUESTION]
    asked += ["--max-new-tokens", "1"]
    rows = [{"command": "onceedit --help", "compilations": "-", "seconds": _seconds(["--help"])}]
    with tempfile.TemporaryDirectory() as folder:
        kept = {
            "JAX_COMPILATION_CACHE_DIR": folder,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        cold = _seconds(asked, kept, repeats=1)
        warm = _seconds(asked, kept)
    for label, seconds in (("none cached", cold), ("all cached", warm)):
        rows.append({"command": "first token", "compilations": label, "seconds": seconds})
    write(
        "startup",
        "B9: seconds until a first answer (goal: help 1.5 s; warm a third of cold)",
        rows,
        f"Warm divided by cold: {warm / cold:.2f}. Both load the plug-in and {target} from disk. "
        "Cold was run once.",
    )


def _seconds(
    arguments: list[str], environment: dict[str, str] | None = None, *, repeats: int = REPEATS
) -> float:
    taken = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run(
            [*ONCEEDIT, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    tyro.cli(main)
