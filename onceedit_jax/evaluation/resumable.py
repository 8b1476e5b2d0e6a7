"""An evaluation in parts on disk: a run that was cut goes on, and several hosts share the work."""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from onceedit_jax.distributed.hosts import Host, first_decides, is_first
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import Block
from onceedit_jax.evaluation.summaries import write_jsonl

PAUSE = 0.5  # seconds between two looks at what other hosts have done

R = TypeVar("R")


class Parts:
    """The parts of one evaluation, a JSON-lines file each, beside where its summary will be."""

    def __init__(self, out: Path, key: str) -> None:
        """Args: the summary's file, and a hash of all that the evaluation depends on."""
        self.folder = out.with_name(f"{out.name}.{key[:12]}.parts")

    def gather(
        self,
        records: Sequence[R],
        measure: Callable[[Sequence[R]], Block],
        host: Host,
        *,
        size: int,
        together: bool = False,
    ) -> list[Block] | None:
        """All parts in order, those that are not there yet measured and kept.

        A host measures every part whose turn is its own, or all hosts measure every part together.
        The first one then waits for the others' parts; that one of them has died is for JAX's own
        service to find out, which ends all.

        Args:
          records: of the evaluation.
          measure: from some of them to what is kept.
          host: this one.
          size: records of a part.
          together: whether the models lie over all hosts' devices.

        Returns:
          The parts; None on other hosts than the first.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(records), size)
        for n, start in enumerate(starts):
            mine = together or n % host.count == host.index
            if not mine or first_decides(together, self._file(n).exists()):
                continue
            block = measure(records[start : start + size])
            if is_first(together):
                self._write(n, block)
        if host.index:
            return None
        while not all(self._file(n).exists() for n in range(len(starts))):
            time.sleep(PAUSE)
        return [self._read(n) for n in range(len(starts))]

    def remove(self) -> None:
        """Remove all parts: what they held is in the summary."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, n: int) -> Path:
        return self.folder / f"{n:05d}.jsonl"

    def _write(self, n: int, block: Block) -> None:
        searched = {"losses": block.losses, "decisions": block.decisions}
        write_jsonl(self._file(n), [searched, *block.rows])

    def _read(self, n: int) -> Block:
        path = self._file(n)
        try:
            # Not `splitlines`: answers may hold U+2028 and other line ends of Unicode.
            lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            first, *rows = map(json.loads, lines)
            return Block(rows, first["losses"], first["decisions"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: no part of an evaluation ({error}); delete it, it is measured again"
            ) from error
