"""Checkpoints of a training run: an interrupted run continues to the same result."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from onceedit_jax.distributed.hosts import first_decides, is_first
from onceedit_jax.errors import InputError
from onceedit_jax.storage.checkpoints import has_tree, load_tree, save_tree

HISTORY = ("loss", "reliability", "gate_accuracy", "seconds")  # of one epoch

History = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where a run saves its state after an epoch.

    Attributes:
      folder: receives parameters, optimizer state and history; nothing here removes it.
      run: hash of everything that the run depends on (edits, unrelated rows, settings, base model).
        A run never continues the checkpoint of another one.
      resume: continue from the folder if it holds a checkpoint.
      seconds: least time between two checkpoints; 0 saves after every epoch.
    """

    folder: Path
    run: str = ""
    resume: bool = False
    seconds: float = 60.0

    def restore(self, state: Any, mesh: Mesh) -> tuple[Any, History]:
        """The state to begin with, and the history of the epochs before it.

        Args:
          state: the state of a fresh run, laid out as this run needs it.
          mesh: the devices that share the run. All of its hosts call this together.

        Returns:
          The saved state and history, or `state` and an empty history if there is nothing to
          continue.

        Raises:
          InputError: the checkpoint belongs to another run.
        """
        together = mesh.is_multi_process
        # Only the first host may put back what a kill has left under another name.
        there = self.resume and is_first(together) and has_tree(self.folder)
        return self._load(state) if first_decides(together, there) else (state, [])

    def save(self, state: Any, history: History) -> None:
        """Write one tree with all of it, so that arrays, history and hash can never disagree."""
        table = np.array([list(entry.values()) for entry in history])
        leaves = jax.tree.leaves(state)
        save_tree(self.folder, {"leaves": leaves, "history": table, "fingerprint": self.run})

    def _load(self, state: Any) -> tuple[Any, History]:
        leaves, structure = jax.tree.flatten(state)
        another = InputError(
            f"{self.folder}: this checkpoint belongs to a run with other edits, unrelated rows, "
            "settings or base model; drop --resume to start over, or restore what was changed"
        )

        def places(saved: Any) -> Any:
            # Other shapes mean another run, before its hash can be read.
            if [leaf.shape for leaf in saved["leaves"]] != [leaf.shape for leaf in leaves]:
                raise another
            # The layout of this run, whatever devices the interrupted run had.
            return {**dict.fromkeys(saved), "leaves": [leaf.sharding for leaf in leaves]}

        saved = load_tree(self.folder, places)
        if saved["fingerprint"] != self.run:
            raise another
        history = [dict(zip(HISTORY, map(float, entry), strict=True)) for entry in saved["history"]]
        return jax.tree.unflatten(structure, saved["leaves"]), history
