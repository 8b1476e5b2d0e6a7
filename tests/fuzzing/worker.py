"""A process that tries inputs within a limit on memory, and logs each before and after."""

import json
import resource
import shutil
import sys
from pathlib import Path

import jax

from fuzzing.trial import Laboratory

ADDRESSES = 12 << 30  # bytes of address space; a sound run takes three quarters of them at most
FORGET = 40  # inputs; programs that were compiled for odd sizes add up


def main(samples: Path, folder: Path, log: Path, seed: int, numbers: range) -> None:
    """Try some inputs, one line of the log for each begun and each ended."""
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    laboratory = Laboratory(samples, folder, seed=seed)
    with log.open("w", encoding="utf-8", buffering=1) as file:
        for done, number in enumerate(numbers):
            laboratory.sound(laboratory.format_of(number))
            file.write(json.dumps({"begun": number}) + "\n")
            file.write(json.dumps(laboratory.try_input(number).as_dict()) + "\n")
            if done % FORGET == FORGET - 1:
                jax.clear_caches()
    shutil.rmtree(folder)


if __name__ == "__main__":
    samples, folder, log = map(Path, sys.argv[1:4])
    seed, first, last, step = map(int, sys.argv[4:])
    main(samples, folder, log, seed, range(first, last, step))
