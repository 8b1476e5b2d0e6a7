"""The command `make fuzz`: thousands of damaged inputs, in processes that may hang or die."""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from tyro.conf import OmitArgPrefixes

from fuzzing.formats import FORMATS
from fuzzing.trial import Laboratory, Trial

HANG = 30.0  # seconds for one input; a sound one takes less than two
START = 120.0  # seconds for a process to start and read the sound inputs
MEMORY = 2.0  # times that of the sound input


@dataclass(frozen=True)
class Options:
    """What is tried.

    Attributes:
      seed: of the inputs; another one makes others.
      inputs: how many.
      processes: how many at once.
      kills: kill so many programs that write, in place of damaging inputs.
      pairs: let so many pairs of programs write to one place, in place of damaging inputs.
      only: try this input alone, and leave it in `keep`.
      keep: a new folder for the samples, of which one file is damaged by `only`.
    """

    seed: int = 0
    inputs: int = 2000
    processes: int = 2
    kills: int = 0
    pairs: int = 0
    only: int | None = None
    keep: Path = Path("runs/fuzz")


@dataclass
class Lane:
    """One process after another, for its share of the inputs."""

    samples: Path
    folder: Path
    seed: int
    numbers: range
    trials: list[Trial] = field(default_factory=list)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    since: float = 0.0
    seen: int = 0

    @property
    def log(self) -> Path:
        """Of the process that runs now."""
        return self.folder / f"{self.starts}.jsonl"

    def start(self) -> None:
        """Start a process for the inputs that are left."""
        self.starts += 1
        place = self.folder / f"samples-{self.starts}"
        left = self.numbers[len(self.trials) :]
        arguments = (self.samples, place, self.log, self.seed, left.start, left.stop, left.step)
        self.folder.mkdir(parents=True, exist_ok=True)
        output = (self.folder / f"{self.starts}.txt").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fuzzing.worker", *map(str, arguments)],
            stdout=output,
            stderr=output,
        )
        self.since, self.seen = time.monotonic(), 0

    def look(self) -> bool:
        """Read the log, end a process that hangs, start the next; whether there is more to do."""
        if self.process is None:
            self.start()
            return True
        code = self.process.poll()
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        for line in lines[self.seen :]:
            self.since, entry = time.monotonic(), json.loads(line)
            if "begun" not in entry:
                self.trials.append(Trial(**entry))
        self.seen = len(lines)
        begun = bool(lines) and "begun" in json.loads(lines[-1])
        silent = time.monotonic() - self.since
        if code is None and silent < (HANG if begun else START):
            return True
        self.process.kill()
        self.process.wait()
        if len(self.trials) == len(self.numbers):
            return False
        if not begun:
            raise SystemExit(f"a process ended between two inputs: see {self.folder}")
        number = self.numbers[len(self.trials)]
        why = f"no end after {HANG:.0f} s" if code is None else f"the process ended with {code}"
        name = FORMATS[number % len(FORMATS)].name
        self.trials.append(Trial(number, name, "", "wrong", why, silent, 0.0))
        self.process = None
        return len(self.trials) < len(self.numbers)


def make_samples(folder: Path) -> Path:
    """The sound inputs of all formats."""
    for sample in dict.fromkeys(format.sample for format in FORMATS):
        sample(folder / sample.__name__)
    return folder


def try_one(options: Options) -> Trial:
    """Try one input in this process, and leave its damaged file."""
    assert options.only is not None
    folder = options.keep
    with tempfile.TemporaryDirectory() as samples:
        laboratory = Laboratory(make_samples(Path(samples)), folder, seed=options.seed)
    trial = laboratory.try_input(options.only)
    with laboratory.damaged(options.only) as file:
        damaged = file.read_bytes()
    file.write_bytes(damaged)
    return trial


def try_all(options: Options, folder: Path) -> list[Trial]:
    """Try all inputs, in several processes at once."""
    samples = make_samples(folder / "samples")
    lanes = [
        Lane(samples, folder / str(n), options.seed, range(n, options.inputs, options.processes))
        for n in range(options.processes)
    ]
    while any([lane.look() for lane in lanes]):
        time.sleep(0.2)
    return [trial for lane in lanes for trial in lane.trials]


def faults(trials: list[Trial]) -> list[Trial]:
    """Those that are wrong, or took more memory than they may."""
    return [trial for trial in trials if trial.outcome == "wrong" or trial.peak > MEMORY]


def table(trials: list[Trial]) -> str:
    """Outcomes by format."""
    counts = Counter((trial.format, trial.outcome) for trial in trials)
    outcomes = ("refused", "same", "another", "wrong")
    rows = [("format", *outcomes)]
    rows += [
        (format.name, *(str(counts[format.name, outcome]) for outcome in outcomes))
        for format in FORMATS
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines)


def show_disturbed(options: Options, folder: Path) -> None:
    """Kill programs, and let two write at once; exit with 1 if anything was lost, mixed or left."""
    from fuzzing.kills import disturb  # imports much

    start = time.monotonic()
    rounds = disturb(folder, seed=options.seed, kills=options.kills, pairs=options.pairs)
    for (operation, left, _), count in sorted(Counter(rounds).items()):
        print(f"{operation}: {left} ({count})")
    wrong = [each for each in rounds if not each.sound]
    print(
        f"{options.kills} kills and {options.pairs} pairs in {time.monotonic() - start:.0f} s, "
        f"seed {options.seed}: {len(wrong)} faults"
    )
    sys.exit(bool(wrong))


def main(options: Options) -> None:
    """Try damaged inputs; exit with 1 if one is read wrongly, hangs, or ends in a traceback."""
    start = time.monotonic()
    if options.only is not None:
        print(try_one(options))
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if options.kills or options.pairs:
            show_disturbed(options, Path(folder))
            return
        trials = try_all(options, Path(folder))
    print(table(trials))
    for trial in faults(trials):
        print(
            f"{trial.number}: {trial.file or trial.format}: {trial.why} (memory x{trial.peak:.1f})"
        )
    longest, largest = max(t.seconds for t in trials), max(t.peak for t in trials)
    print(
        f"{len(trials)} inputs in {time.monotonic() - start:.0f} s, seed {options.seed}: "
        f"{len(faults(trials))} faults, at most {longest:.1f} s and {largest:.2f} times the memory "
        "of the sound input"
    )
    sys.exit(bool(faults(trials)))


if __name__ == "__main__":
    main(tyro.cli(Options, config=(OmitArgPrefixes,)))
