"""One damaged input: make it, read it, judge what came of it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fuzzing.formats import FORMATS, Format
from fuzzing.readers import NeverAnother, Value
from onceedit_jax.errors import OnceEditError, RunError

Outcome = Literal["refused", "same", "another", "wrong"]


@dataclass(frozen=True)
class Trial:
    """What came of one damaged input.

    Attributes:
      number: of the input; with the seed it says all about it.
      format: the format's name.
      file: which file was damaged.
      outcome: refused in one line that names the file; read as the sound input; read as another
        one that other libraries read too; or wrong.
      why: the error's text, or what is wrong.
      seconds: that reading took.
      peak: largest resident memory meanwhile, over that of reading the sound input.
    """

    number: int
    format: str
    file: str
    outcome: Outcome
    why: str
    seconds: float
    peak: float

    def as_dict(self) -> dict[str, Any]:
        """For a log of JSON lines."""
        return asdict(self)


class Laboratory:
    """Copies of the sound inputs in a folder of its own, and what reading them gives."""

    def __init__(self, samples: Path, folder: Path, *, seed: int) -> None:
        shutil.copytree(samples, folder)
        self.folder, self.seed = folder, seed
        self._sound: dict[str, tuple[Value, int]] = {}

    def format_of(self, number: int) -> Format:
        """The formats take turns."""
        return FORMATS[number % len(FORMATS)]

    def sound(self, format: Format) -> tuple[Value, int]:
        """The value of the sound input and the memory that reading takes; other readers agree."""
        if format.name not in self._sound:
            place = self._place(format, self.files(format)[0])
            format.read(place)  # compiles, and fills caches
            with _peak() as peak:
                value = format.read(place)
            with suppress(NeverAnother):
                assert value == format.by_others(place), format.name
            self._sound[format.name] = value, peak[0]
        return self._sound[format.name]

    def files(self, format: Format) -> list[Path]:
        """The files of a sample that a format damages, in order."""
        found = sorted((self.folder / format.sample.__name__).glob(format.file))
        return [path for path in found if path.is_file() and path.stat().st_size]

    def try_input(self, number: int) -> Trial:
        """Damage a sound input, read it, and make it sound again."""
        format = self.format_of(number)
        value, usual = self.sound(format)
        with self.damaged(number) as file:
            place = self._place(format, file)
            start = time.monotonic()
            with _peak() as peak:
                outcome, why = _judged(format, place, file, value)
            seconds = time.monotonic() - start
        name = str(file.relative_to(self.folder))
        return Trial(number, format.name, name, outcome, why, seconds, peak[0] / max(usual, 1))

    @contextmanager
    def damaged(self, number: int) -> Iterator[Path]:
        """The damaged file of an input, while it lasts."""
        format = self.format_of(number)
        rng = np.random.default_rng([self.seed, number])
        files = self.files(format)
        file = files[int(rng.integers(len(files)))]
        sound = file.read_bytes()
        try:
            file.write_bytes(format.mutate(sound, rng))
            yield file
        finally:
            file.write_bytes(sound)

    def _place(self, format: Format, file: Path) -> Path:
        return format.place(self.folder / format.sample.__name__, file)


def _judged(format: Format, place: Path, file: Path, sound: Value) -> tuple[Outcome, str]:
    """Read a damaged input, and say whether what came of it is right.

    Everything else than an `OnceEditError` would be a traceback; a Rust panic is no `Exception`.
    """
    try:
        value = format.read(place)
    except KeyboardInterrupt:
        raise
    except OnceEditError as error:
        text = str(error)
        # A run of sound numbers that overflows has no file to name.
        named = isinstance(error, RunError) or any(n in text for n in (file.name, place.name))
        return ("refused", text) if named else ("wrong", f"the file is not named: {text}")
    except BaseException as error:
        return "wrong", f"{type(error).__module__}.{type(error).__name__}: {error!s:.300}"
    if value == sound:
        return "same", ""
    try:
        expected = format.by_others(place)
    except NeverAnother:
        return "wrong", f"damage was not noticed: {_difference(value, sound)}"
    except BaseException as error:
        return "wrong", f"read, but others cannot: {type(error).__name__}: {error!s:.300}"
    if value != expected:
        return "wrong", f"read otherwise than by others: {_difference(value, expected)}"
    return "another", _difference(value, sound)


def _difference(value: Value, other: Value) -> str:
    keys = [key for key in value if value[key] != other.get(key)]
    return "; ".join(f"{key} {value[key]!r:.90} is {other.get(key)!r:.90} there" for key in keys)


@contextmanager
def _peak() -> Iterator[list[int]]:
    """The largest resident memory of this process meanwhile, bytes; 0 where Linux does not say."""
    found = [0]
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        reset.write_text("5")
    except OSError:
        yield found
        return
    try:
        yield found
    finally:
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        found[0] = int(line.split()[1]) * 1024
