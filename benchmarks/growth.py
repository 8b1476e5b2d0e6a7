"""B8: seconds an evaluated record takes, by the number of edits and by the number of targets.

The plug-in is that of `benchmarks.generation`, with keys for more edits added to its memory. The
third and fourth target have SmolLM2-135M's size and random weights, for their time only.
Run: python -m benchmarks.growth
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import tyro

import onceedit_jax as oe
from benchmarks.generation import edited_plugin, long_edits
from benchmarks.measure import TARGETS, seconds_each, write
from onceedit_jax.data.records import demo_path
from onceedit_jax.editing.gate_features import gate_rows
from onceedit_jax.gates.fact_memory import fit_memory
from onceedit_jax.models.parameters import init_params

EDITS, COUNTS = (10, 100, 1000), (1, 2, 4)


def main(out: Path = Path("runs/bench")) -> None:
    """Measure teacher-forced evaluation of the demo's ten records.

    Args:
        out: folder of the edited plug-in.
    """
    plugin = edited_plugin(long_edits(), out / "plugin")
    records = oe.load_records(demo_path("demo_edits.jsonl"))
    targets = [oe.load_target(spec) for spec in TARGETS]
    targets += [_random(targets[1], seed) for seed in (1, 2)]
    plugins = {count: _with_edits(plugin, records, count) for count in EDITS}
    ensembles = {f"{n} edits": oe.Ensemble(plugins[n], targets[1:2], chat=False) for n in EDITS}
    ensembles |= {f"{n} targets": oe.Ensemble(plugins[10], targets[:n], chat=False) for n in COUNTS}
    taken = seconds_each(
        {name: partial(_evaluated, ensemble, records) for name, ensemble in ensembles.items()}
    )
    rows = []
    for name in taken:
        edits, counted = (name, 1) if "edits" in name else ("10 edits", int(name.split()[0]))
        base = taken["10 edits" if "edits" in name else "1 targets"]
        rows.append(
            {
                "edits": int(edits.split()[0]),
                "targets": ", ".join(t.name for t in ensembles[name].targets),
                "number": counted,
                "seconds a record": taken[name] / len(records),
                "over the first": taken[name] / base,
            }
        )
    write(
        "growth",
        "B8: seconds an evaluated record takes, by edits and by targets (goal: constant in edits)",
        rows,
        "A record is its edit, a rephrase and its unrelated questions, teacher-forced. Targets 3 "
        "and 4 have random weights, so that they read drafts but never follow them.",
    )


def _evaluated(ensemble: oe.Ensemble, records: list[oe.EditRecord]) -> None:
    oe.evaluate(ensemble, records)


def _with_edits(
    plugin: oe.EditedPlugin, records: list[oe.EditRecord], count: int
) -> oe.EditedPlugin:
    """The plug-in with keys for `count` edits: the records' own, and made-up names."""
    names = [f"Zarn{n:x} Okvel{n * 7 % 997:x}" for n in range(count - len(records))]
    more = [oe.EditRecord(f"Where is {name}?", "Oslo", subject=name) for name in names]
    rows = gate_rows((), [*records, *more], plugin.reader)
    memory = fit_memory(*rows)
    keys = {name: memory[name] for name in ("words", "weights")}
    return dataclasses.replace(plugin, memory=keys)


def _random(like: oe.Target, seed: int) -> oe.Target:
    params = init_params(like.model.config, jax.random.key(seed))
    model = dataclasses.replace(
        like.model, params=params, name=f"random {seed}", content_hash=f"random {seed}"
    )
    return oe.Target(model, like.tokenizer)


if __name__ == "__main__":
    tyro.cli(main)
