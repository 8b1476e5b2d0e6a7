"""B9: an evaluation beside the model passes and decoding steps that its answers need.

`onceedit evaluate` of ZsRE records by both demo targets, in both modes, in one process. Needed are,
at the speed of full batches: each distinct token that a model reads, in a pass; each token that it
writes, in a step; each next token that is decided, in the vocabulary head. Texts that begin alike
share their beginning. Run: python -m benchmarks.evaluation
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import tyro

import onceedit_jax as oe
from benchmarks.generation import edited_plugin
from benchmarks.measure import TARGETS, seconds_each, write
from benchmarks.steps import never, random_prompts
from onceedit_jax.cli.environment import prepare_environment
from onceedit_jax.cli.progress import evaluation_progress
from onceedit_jax.decoding import answers, drafting, joining_rows, many_rows, prefix_batching
from onceedit_jax.decoding.greedy import greedy_continuation
from onceedit_jax.editing import relation_reading
from onceedit_jax.ensemble import decisions, generation, scoring
from onceedit_jax.evaluation import protocol
from onceedit_jax.evaluation.from_files import evaluate_from_files
from onceedit_jax.evaluation.options import EvaluationOptions
from onceedit_jax.models.config import ModelConfig

DATA = Path("../shared/data/zsre_eval.json")
GOAL = 1.5
WIDTH = 24  # tokens of a usual prompt
REPEATS = 3
COMPILING = {
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
}


def main(
    records: int = 100,
    data: Path = DATA,
    out: Path = Path("runs/bench"),
    edited: Path | None = None,
) -> None:
    """Measure one evaluation.

    Args:
        records: how many records are edited and evaluated.
        data: the file of ZsRE records.
        out: folder of the plug-in that is edited for this, and of the scores.
        edited: a plug-in that is edited already.
    """
    if not data.exists():
        print(f"skipped: {data} is not there; --data names a file of ZsRE records")
        return
    prepare_environment()
    if edited is None:
        edited = out / f"zsre-{records}"
        edited_plugin(oe.load_records(data)[:records], edited)
    options = EvaluationOptions(
        edited=edited,
        target=TARGETS,
        data=str(data),
        out=out / "evaluation.json",
        limit=records,
        mode="both",
    )
    work = Work()
    begun = time.perf_counter()
    with work.counted(), evaluation_progress() as (on_block, on_records):
        evaluate_from_files(options, on_block=on_block, on_records=on_records)
    compiled = work.compiled
    total = time.perf_counter() - begun - compiled
    rows = [work.row(model) for model in work.configs]
    needed, spent = (sum(row[f"{kind}, s"] for row in rows) for kind in ("needed", "spent"))
    rows.append({"model": "whole command", "needed, s": needed, "spent, s": total})
    rows = [{**row, "ratio": row["spent, s"] / row["needed, s"]} for row in rows]
    write(
        "evaluation",
        f"B9: an evaluation of {records} ZsRE records, seconds by model",
        rows,
        f"Goal for the whole command: {GOAL}. Besides, {compiled:.0f} s of compiling or "
        "reading compiled programs, as JAX reports them, are in no row; the whole command has "
        f"{total - spent:.0f} s of loading, tokenization and files beyond the models' own. Read: "
        "distinct tokens, texts that begin alike sharing their beginning; written and decided: "
        "tokens. Needed: these at the speed of a pass of 16 texts, and of a step and a "
        "vocabulary head of 64, measured in the same run.",
        how="One run.",
    )


class Speed(NamedTuple):
    """Seconds of one model: for a token in a pass, in a step, and in the vocabulary head."""

    read: float
    written: float
    decided: float


class Work:
    """What models do while an evaluation runs, by model.

    Attributes:
      configs: of each model.
      compiled: seconds of compilation.
    """

    def __init__(self) -> None:
        self.compiled = 0.0
        self.configs: dict[str, ModelConfig] = {}
        self._params: dict[str, Any] = {}
        self._read: dict[str, set[Any]] = defaultdict(set)
        self._more, self._written, self._decided = Counter[str](), Counter[str](), Counter[str]()
        self._spent: Counter[str] = Counter()

    @contextmanager
    def counted(self) -> Iterator[None]:
        """A context in which all work is counted."""
        parts: list[tuple[Any, str, Callable[..., None]]] = [
            (prefix_batching, "_hidden", self._pass),
            (relation_reading, "_pooled", self._pass),
            (prefix_batching, "extend", self._extension),
            (joining_rows, "extend", self._extension),
            (answers, "greedy_continuation", self._continuation),
            (drafting, "greedy_continuation", self._continuation),
            (many_rows, "_write", self._segment),
        ]
        jax.monitoring.register_event_duration_secs_listener(self._compiling)
        with ExitStack() as stack:
            for module, name, count in parts:
                step = partial(self._timed, getattr(module, name), count)
                stack.enter_context(mock.patch.object(module, name, step))
            for module, name in ((prefix_batching, "_likeliest"), (decisions, "decide")):
                step = partial(self._timed, getattr(module, name), _nothing)
                stack.enter_context(mock.patch.object(module, name, step))
            deciding = ((scoring, "tokens_after"), (protocol, "tokens_after"))
            for module, name in (*deciding, (scoring, "decide_all"), (generation, "decide_all")):
                stack.enter_context(
                    mock.patch.object(module, name, partial(self._decision, getattr(module, name)))
                )
            yield

    def row(self, model: str) -> dict[str, Any]:
        """What a model had to do, and how long that takes and took."""
        speed = self._speed(model)
        read = len(self._read[model]) + self._more[model]
        written, decided = self._written[model], self._decided[model]
        needed = read * speed.read + written * speed.written + decided * speed.decided
        return {
            "model": model,
            "read": read,
            "written": written,
            "decided": decided,
            "needed, s": needed,
            "spent, s": self._spent[model],
        }

    def _speed(self, model: str) -> Speed:
        params, config = self._params[model], self.configs[model]
        reading, writing = (random_prompts(config, rows, WIDTH) for rows in (16, many_rows.ROWS))
        states = np.ones((many_rows.ROWS, config.hidden_size), np.float32)
        head = prefix_batching.head_of(params)
        write_on = partial(greedy_continuation, params, config, *writing, never(config))
        taken = seconds_each(
            {
                "read": lambda: prefix_batching._hidden(params, config, *reading),
                "few": lambda: write_on(steps=1),
                "many": lambda: write_on(steps=9),
                "decided": lambda: prefix_batching._likeliest(head, config, states),
            },
            repeats=REPEATS,
        )
        step = (taken["many"] - taken["few"]) / 8
        rows = many_rows.ROWS
        return Speed(taken["read"] / reading.tokens.size, step / rows, taken["decided"] / rows)

    def _compiling(self, event: str, seconds: float, **_: Any) -> None:
        if event in COMPILING:
            self.compiled += seconds

    def _timed(
        self, step: Callable[..., Any], count: Callable[..., None], *args: Any, **named: Any
    ) -> Any:
        compiled, begun = self.compiled, time.perf_counter()
        found = jax.block_until_ready(step(*args, **named))
        seconds = time.perf_counter() - begun - (self.compiled - compiled)
        if "target_config" in named:
            model = _name(named["target_config"])
        else:
            model = _name(args[1], args[0])
            if "layers" in args[0] and model not in self.configs:
                self.configs[model], self._params[model] = args[1], _plain(args[0])
        self._spent[model] += seconds
        count(model, found, *args, **named)
        return found

    def _pass(self, model: str, _: Any, params: Any, config: Any, tokens: Any, at: Any) -> None:
        for row, places in zip(np.asarray(tokens), np.asarray(at), strict=True):
            self._add(model, row[places >= 0].tolist())

    def _extension(self, model: str, _: Any, *args: Any) -> None:
        keep, tokens, at = (np.asarray(array) for array in args[3:6])
        for kept, row, places in zip(keep, tokens, at, strict=True):
            if kept:
                self._more[model] += int((places >= 0).sum())
            else:
                self._add(model, row[places >= 0].tolist())

    def _continuation(self, model: str, found: Any, *args: Any, **_: Any) -> None:
        self._pass(model, None, *args[:4])
        active = np.asarray(args[3])[:, 0] >= 0
        counts = np.asarray(found.length) + np.asarray(found.stopped)
        self._written[model] += int(counts[active].sum())

    def _segment(self, model: str, found: Any, *_: Any, **named: Any) -> None:
        written = found[0].written
        counts = np.asarray(written.length) + np.asarray(written.stopped)
        self._written[model] += int(counts[named["left"] > 0].sum())

    def _decision(self, decide: Callable[..., Any], *args: Any, **named: Any) -> Any:
        if isinstance(args[1], ModelConfig):
            self._decided[_name(args[1], args[0])] += len(args[2])
        else:
            self._decided[_name(args[1].target.model.config)] += len(args[4])
        return decide(*args, **named)

    def _add(self, model: str, row: Sequence[int]) -> None:
        """Every beginning of a text is one token that has to be read, once."""
        digest = 0
        for token in row:
            digest = hash((digest, token))
            self._read[model].add(digest)


def _nothing(model: str, found: Any, *args: Any, **named: Any) -> None:
    """Nothing is counted beside the time."""


def _name(config: ModelConfig, params: Any = None) -> str:
    """A model's name; the plug-in's layers lie in groups, so that adapters fit in between."""
    is_plugin = params is not None and isinstance(params.get("layers"), tuple)
    return f"{config.family}, {config.num_layers} layers{', plug-in' if is_plugin else ''}"


def _plain(params: Any) -> Any:
    """A model's parameters without adapters."""
    return {name: part for name, part in params.items() if name != "adapters"}


if __name__ == "__main__":
    tyro.cli(main)
