"""B9: seconds until `--help`, and until a first answer, with and without what the cache keeps.

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
from onceedit_jax.storage.converted import MOST_GIGABYTES, VARIABLE
from onceedit_jax.storage.sources import cache_folder

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
    nothing = {"compilations": "-", "weights, tokenizers": "-"}
    rows = [{"command": "onceedit --help", **nothing, "seconds": _seconds(["--help"])}]
    with tempfile.TemporaryDirectory() as folder:
        cold, converting, keeping = _first_answers(asked, Path(folder))
        kept = [path.stat().st_size / 1e6 for path in Path(folder).glob("converted/*.safetensors")]
    for compilations, converted, seconds in (
        ("none cached", "nothing kept", cold),
        ("all cached", "nothing kept", converting),
        ("all cached", "kept now", keeping[0]),
        ("all cached", "kept before", keeping[1]),
        ("all cached", "kept before, --no-verify", keeping[2]),
    ):
        rows.append(
            {
                "command": "first token",
                "compilations": compilations,
                "weights, tokenizers": converted,
                "seconds": seconds,
            }
        )
    write(
        "startup",
        "B9: seconds until a first answer (goal: help 1.5 s; a second start 5 s)",
        rows,
        f"With {target} as target; what is kept takes {sum(kept):,.0f} MB. A second start with "
        f"all that is kept, divided by one that converts: {keeping[1] / converting:.2f}. The "
        "first row of a token and the third were run once.",
    )


def _first_answers(asked: list[str], folder: Path) -> tuple[float, float, tuple[float, ...]]:
    """Seconds of a command in a fresh cache folder, which shares the models with the user's.

    Returns:
      With nothing compiled; compiled, and with nothing kept; and three times with what is kept: the
      start that keeps it, a later one, and one that does not verify it.
    """
    (folder / "models").symlink_to(cache_folder() / "models")
    nothing = {
        "ONCEEDIT_CACHE": str(folder),
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        VARIABLE: "0",
    }
    kept = nothing | {VARIABLE: str(MOST_GIGABYTES)}
    cold, converting = _seconds(asked, nothing, repeats=1), _seconds(asked, nothing)
    first, second = _seconds(asked, kept, repeats=1), _seconds(asked, kept)
    return cold, converting, (first, second, _seconds([*asked, "--no-verify"], kept))


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
