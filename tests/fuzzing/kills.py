"""Kill whatever writes, at any point; let two programs write at once; look at what is left.

After a kill there must be the state before or the state after. The operation is then done again and
must end where it ends undisturbed, with nothing beside it. Two operations at once must end as if
one had come after the other, or one must be refused.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from adapter_cases import ADAPTER
from relation_cases import sharp_head

from fuzzing import samples
from onceedit_jax.cli.edit import EditOptions, edit_from_files
from onceedit_jax.cli.transfer import TransferOptions, transfer_report
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import read_info
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.ledger_file import revert_edits
from onceedit_jax.editing.relation_heads import find_head, keep_head
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.upkeep import add_edits, compact_edits
from onceedit_jax.editing.verification import verify
from onceedit_jax.ensemble import load_target
from onceedit_jax.errors import OnceEditError
from onceedit_jax.evaluation.from_files import evaluate_from_files
from onceedit_jax.evaluation.options import EvaluationOptions

QUICK = dataclasses.replace(ADAPTER, epochs=4)
FULL = EditSettings(method="full", epochs=6, batch_size=2, early_stop=0)


def _fact(place: str, answer: str) -> EditRecord:
    return EditRecord(f"What is the capital of {place}?", answer, subject=place, source="facts:1")


FACTS = [_fact("Norland", "Vinter"), _fact("Vinterby", "Ask"), _fact("Sorvik", "red")]


class Operation(NamedTuple):
    """Something that writes.

    Attributes:
      act: does it, in a folder with models and an artifact.
      state: what it changes, as plain values.
    """

    act: Callable[[Path], object]
    state: Callable[[Path], Any]


def prepare(folder: Path) -> Path:
    """A plug-in, a target, an artifact with three facts, files of facts, and a cache."""
    base = load_target(samples.model(folder / "base"))
    samples.other_model(folder / "target")
    keep_head(sharp_head(base.model, base.tokenizer))
    head = find_head(base.model.content_hash)  # as it is read: the file holds it in half precision
    plugin = edit(base.model, base.tokenizer, FACTS, settings=QUICK, head=head)
    plugin.save(folder / "artifact")
    samples.edits(folder / "facts")
    return folder


def _add(folder: Path) -> object:
    return add_edits(folder / "artifact", [_fact("Norland", "Oskar"), _fact("Elde", "Ola")], QUICK)


def _add_others(folder: Path) -> object:
    return add_edits(folder / "artifact", [_fact("Mereland", "Tarn"), _fact("Elde", "Birk")], QUICK)


def _replace(folder: Path) -> object:
    return add_edits(folder / "artifact", [_fact("Vinterby", "Ada")], QUICK, replacing=[2])


def _revert(folder: Path) -> object:
    return revert_edits(folder / "artifact", [1])


def _revert_another(folder: Path) -> object:
    return revert_edits(folder / "artifact", [2])


def _compact(folder: Path) -> object:
    return compact_edits(folder / "artifact", QUICK)


def _edit(folder: Path) -> object:
    return edit_from_files(
        EditOptions(
            facts=str(folder / "facts" / "edits.jsonl"), plugin=str(folder / "base"),
            unrelated=str(folder / "facts" / "unrelated.json"), out=folder / "edited",
            settings=FULL, resume=(folder / "edited.checkpoint").exists(),
        )
    )  # fmt: skip


def _evaluate(folder: Path) -> object:
    return evaluate_from_files(
        EvaluationOptions(
            edited=folder / "artifact", target=(str(folder / "target"),), part=1,
            data=str(folder / "facts" / "edits.jsonl"), out=folder / "scores.json",
        )
    )  # fmt: skip


def _transfer(folder: Path) -> object:
    return transfer_report(
        TransferOptions(plugin=str(folder / "base"), target=str(folder / "target"))
    )


def _ledger(folder: Path) -> Any:
    """Each edit's answer, state and adapter; everything in the folder is sound."""
    faults = [each.fault for each in verify(folder / "artifact") if each.fault]
    assert not faults, faults
    info = read_info(folder / "artifact")
    EditedPlugin.load(folder / "artifact")
    return [
        (entry.id, entry.prompt, entry.target, entry.state, entry.adapter) for entry in info.edits
    ]


def _where_left_out(state: Any) -> Any:
    """The same without adapters, if it is that of a ledger."""
    of_ledger = isinstance(state, list) and state and isinstance(state[0], tuple)
    return [entry[:-1] for entry in state] if of_ledger else state


def _edited(folder: Path) -> Any:
    """The trained numbers; None where there is no artifact."""
    if not (folder / "edited").exists():
        return None
    plugin = EditedPlugin.load(folder / "edited")
    return [float(np.asarray(leaf, np.float64).sum()) for leaf in jax.tree.leaves(plugin.params)]


def _scores(folder: Path) -> Any:
    """The scores; None where there is no summary."""
    if not (folder / "scores.json").exists():
        return None
    return json.loads((folder / "scores.json").read_text())["results"]


def _tables(folder: Path) -> Any:
    """The names of the tables in the cache, which are sound."""
    tables = Path(os.environ["ONCEEDIT_CACHE"]) / "tables"
    found = sorted(path.name for path in tables.glob("*.safetensors"))
    assert not found or not [each.fault for each in verify(tables) if each.fault]
    return found


OPERATIONS: dict[str, Operation] = {
    "add": Operation(_add, _ledger),
    "add others": Operation(_add_others, _ledger),
    "replace": Operation(_replace, _ledger),
    "revert": Operation(_revert, _ledger),
    "revert another": Operation(_revert_another, _ledger),
    "compact": Operation(_compact, _ledger),
    "edit": Operation(_edit, _edited),
    "evaluate": Operation(_evaluate, _scores),
    "transfer": Operation(_transfer, _tables),
}


#: Operations that two programs do at once.
PAIRS = (
    ("revert", "revert another"),
    ("add", "add others"),
    ("add", "revert"), ("replace", "revert"), ("add", "compact"),
    ("compact", "revert"), ("edit", "edit"), ("evaluate", "evaluate"), ("transfer", "transfer"),
)  # fmt: skip


def _act(name: str, folder: Path) -> None:
    """In a process of its own; its output is of no interest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    use_cache(folder)
    try:
        OPERATIONS[name].act(folder)
    except OnceEditError:
        sys.exit(2)


def use_cache(folder: Path) -> None:
    """Tables and heads of a round's own; compiled programs are shared by all rounds."""
    os.environ["ONCEEDIT_CACHE"] = str(folder / "cache")


def _names(folder: Path) -> list[str]:
    """What lies in a folder, but for locks."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


class Round(NamedTuple):
    """What came of one kill, or of two programs at once.

    Attributes:
      operation: what was done.
      left: what was found, or what is wrong.
      sound: whether it is as it should be.
    """

    operation: str
    left: str
    sound: bool


class Ending(NamedTuple):
    """Where operations end that nothing disturbs.

    Attributes:
      states: what each of them changes, one after the other.
      names: what lies in the folder then.
      seconds: that the last of them takes.
    """

    states: tuple[Any, ...]
    names: list[str]
    seconds: float


class Arena:
    """A prepared folder, copies of which are disturbed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        use_cache(folder / "sound")
        self.sound = prepare(folder / "sound")
        self.processes = multiprocessing.get_context("forkserver")
        self.processes.set_forkserver_preload(["fuzzing.kills"])
        self._endings: dict[tuple[str, ...], Ending] = {}

    def kill(self, name: str, rng: random.Random) -> Round:
        """Kill an operation at a random moment, rather late than early, and do it again."""
        before = OPERATIONS[name].state(self._copy())
        ending = self._ending(name)
        after, place = ending.states[-1], self._copy()
        process = self._start(name, place)
        process.join(rng.triangular(0, 1.1 * ending.seconds, ending.seconds))
        process.kill()
        process.join()
        try:
            left = OPERATIONS[name].state(place)
            # There are two tables, and each appears by itself.
            if left not in (before, after) and name != "transfer":
                return Round(name, f"left {left!r:.200}", sound=False)
            if left != after:
                self._finish(name, place)
            found, names = OPERATIONS[name].state(place), _names(place)
        except Exception as error:
            return Round(name, f"{type(error).__name__}: {error!s:.300}", sound=False)
        if found != after:
            return Round(name, f"then became {found!r:.200}", sound=False)
        if names != ending.names:
            return Round(name, f"beside it lie {set(names) ^ set(ending.names)}", sound=False)
        return Round(name, "after" if left == after else "before", sound=True)

    def at_once(self, pair: tuple[str, str], rng: random.Random) -> Round:
        """Two operations at once: as if one came after the other, or one was refused."""
        one, other = pair
        orders = {
            (True, True): [(one, other), (other, one)],
            (True, False): [(one,)],
            (False, True): [(other,)],
        }
        for order in (order for those in orders.values() for order in those):
            self._ending(*order)
        place, title = self._copy(), " and ".join(pair)
        first = self._start(one, place)
        time.sleep(rng.uniform(0, 0.5 * self._ending(one).seconds))
        second = self._start(other, place)
        done = []
        for process in (first, second):
            process.join()
            done.append(process.exitcode == 0)
            if process.exitcode not in (0, 2):
                return Round(title, f"one ended with {process.exitcode}", sound=False)
        # Where edits lie may differ: `compact` moves those that it has seen.
        states = [
            _where_left_out(self._ending(*order).states[-1])
            for order in orders.get((done[0], done[1]), [])
        ]
        try:
            found = _where_left_out(OPERATIONS[one].state(place))
        except Exception as error:
            return Round(title, f"{type(error).__name__}: {error!s:.300}", sound=False)
        left = "both" if all(done) else "one was refused"
        if found not in states or _names(place) != self._ending(*pair).names:
            return Round(title, f"{left}: {found!r:.200}", sound=False)
        return Round(title, left, sound=True)

    def _copy(self) -> Path:
        place = self.folder / "round"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.sound, place)
        use_cache(place)
        return place

    def _start(self, name: str, place: Path) -> Any:
        process = self.processes.Process(target=_act, args=(name, place))
        process.start()
        return process

    def _finish(self, name: str, place: Path) -> int:
        """Do an operation to its end; its exit code, which tells of a refusal."""
        process = self._start(name, place)
        process.join()
        if process.exitcode not in (0, 2):
            raise AssertionError(f"{name} ended with {process.exitcode}")
        return int(process.exitcode)

    def _ending(self, *names: str) -> Ending:
        if names not in self._endings:
            for _ in range(2):  # the first time compiles
                place, states = self._copy(), []
                for name in names:
                    begun = time.monotonic()
                    self._finish(name, place)
                    states.append(OPERATIONS[name].state(place))
            ending = Ending(tuple(states), _names(place), time.monotonic() - begun)
            self._endings[names] = ending
        return self._endings[names]


def disturb(folder: Path, *, seed: int, kills: int, pairs: int) -> list[Round]:
    """Kill operations, and let two work at once; the kinds take turns.

    Args:
      folder: an empty one.
      seed: of the moments.
      kills: how many.
      pairs: how many.
    """
    rng = random.Random(seed)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    arena, names = Arena(folder / "arena"), [name for name in OPERATIONS if "other" not in name]
    rounds = [arena.kill(names[n % len(names)], rng) for n in range(kills)]
    return rounds + [arena.at_once(PAIRS[n % len(PAIRS)], rng) for n in range(pairs)]
