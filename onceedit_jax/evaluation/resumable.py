"""An evaluation in parts on disk: an interrupted run goes on, and several hosts share the work."""

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

PAUSE = 0.5  # seconds between two checks for the other hosts' parts

R = TypeVar("R")


class ResumableEvaluation:
    """One evaluation in parts: a JSON-lines file each, in a folder beside the summary's file.

    Attributes:
      folder: the folder.
    """

    def __init__(self, out: Path, key: str) -> None:
        """Name the folder; nothing is written yet.

        Args:
          out: the summary's file.
          key: a hash of everything that the evaluation depends on.
        """
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
        """All parts in order; parts that are not on disk yet are measured and written.

        The hosts take turns with the parts, or measure each of them together. The first host then
        waits for the others' parts. If a host dies, JAX's own service ends all of them.

        Args:
          records: of the evaluation.
          measure: from some of the records to their part.
          host: this host.
          size: records of a part.
          together: whether the models lie over all hosts' devices.

        Returns:
          The parts; None on all hosts but the first.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        starts = range(0, len(records), size)
        for n, start in enumerate(starts):
            is_own = together or n % host.count == host.index
            if not is_own or first_decides(together, self._file(n).exists()):
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
        """Remove all parts, once their content is in the summary."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, n: int) -> Path:
        return self.folder / f"{n:05d}.jsonl"

    def _write(self, n: int, block: Block) -> None:
        search = {"losses": block.losses, "decisions": block.decisions}
        write_jsonl(self._file(n), [search, *block.rows])

    def _read(self, n: int) -> Block:
        path = self._file(n)
        try:
            # Not `splitlines`: answers may contain U+2028 and other line ends of Unicode.
            lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
            first, *rows = map(json.loads, lines)
            return Block(rows, first["losses"], first["decisions"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: not a part of an evaluation ({error}); delete the file, and the part is "
                "measured again"
            ) from error
