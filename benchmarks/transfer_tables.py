"""B1: building a pair's transfer tables beside the published block-wise cosine.

The published code takes the cosine of every token with every anchor in blocks of 1000 x 1000, by
broadcasting (DeePEn). Here that formula is one PyTorch call, timed on a few blocks and multiplied
by their number. Needs PyTorch. Run: python -m benchmarks.transfer_tables
"""

import statistics
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import onceedit_jax as oe
from benchmarks.measure import PLUGIN, TARGETS, write
from benchmarks.steps import timed_table
from onceedit_jax.fusion.relative_rule import pair_anchors

BLOCK, SAMPLED = 1000, 5
PAGE = 4096


def main() -> None:
    """Build both tables of the pair, and time blocks of the published formula in between."""
    plugin, target = oe.load_target(PLUGIN), oe.load_target(TARGETS[0])
    shared, rows = pair_anchors(plugin.tokenizer, target.tokenizer), []
    for side, ids in ((plugin, shared.ids_a), (target, shared.ids_b)):
        embeddings = side.model.params["embed"]["tokens"]
        tokens, anchors = side.model.config.num_tokens, len(ids)
        published = _published_block(np.asarray(embeddings))
        blocks = -(-tokens // BLOCK) * -(-anchors // BLOCK)
        with _Memory() as memory:
            built = timed_table(embeddings, ids, tokens)
        dense = tokens * anchors * 4 / 1e6
        rows.append(
            {
                "side": side.name,
                "tokens": tokens,
                "anchors": anchors,
                "TFLOP": built.flops / 1e12,
                "built, s": built.seconds,
                "published, s": published * blocks,
                "times faster": published * blocks / built.seconds,
                "memory, MB": memory.peak,
                "dense, MB": dense,
            }
        )
    whole = {key: sum(row[key] for row in rows) for key in ("TFLOP", "built, s", "published, s")}
    peak = max(row["memory, MB"] for row in rows)
    dense = sum(row["dense, MB"] for row in rows)
    rows.append(
        {
            "side": "both",
            "tokens": "",
            "anchors": rows[0]["anchors"],
            **whole,
            "times faster": whole["published, s"] / whole["built, s"],
            "memory, MB": peak,
            "dense, MB": dense,
        }
    )
    each = whole["built, s"]
    setups = ", ".join(f"{n}: {n * each:.0f} s" for n in (1, 2, 4, 8))
    write(
        "transfer_tables",
        "B1: building both transfer tables (goal: 500 x faster, memory 1/50 of dense)",
        rows,
        f"`published` is the median of {SAMPLED} blocks of {BLOCK} x {BLOCK}, times the number "
        "of blocks. `memory` is the peak of resident memory above the loaded models while the "
        f"table was built; dense divided by it: {dense / peak:.0f}. Set-up by the number of "
        f"targets of this size, each with its own tokenizer: {setups}. A table depends on a "
        "pair's anchors, so that targets with one tokenizer share the plug-in's table. Edits "
        "do not change tables. The paper names 10 TFLOP a pair.",
        how="`built` is one run, compilation included.",
    )


def _published_block(embeddings: np.ndarray) -> float:
    """Median seconds of one block of cosines, by broadcasting."""
    table, taken = torch.from_numpy(embeddings.copy()), []
    for i in range(SAMPLED + 1):
        rows = table[i * BLOCK : (i + 1) * BLOCK]
        begun = time.perf_counter()
        torch.nn.functional.cosine_similarity(rows[:, None], table[None, :BLOCK], dim=-1)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken[1:])


class _Memory:
    """The peak of resident memory in MB, above what it was at first."""

    peak = 0.0

    def __enter__(self) -> "_Memory":
        self._first, self._done = self._resident(), threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._resident() - self._first)

    @staticmethod
    def _resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


if __name__ == "__main__":
    main()
