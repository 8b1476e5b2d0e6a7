"""The main job on two real models: one plug-in edited once, two LLMs that answer anew."""

import time
from pathlib import Path

from onceedit_jax.cli.workflow import (
    edit,
    load_records,
    out_console,
    print_answers,
    report_evaluation,
)
from onceedit_jax.data.records import demo_path
from onceedit_jax.distributed.mesh import parse_mesh
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.ensemble import Ensemble, load_target
from onceedit_jax.evaluation.protocol import evaluate, plugin_alone

PLUGIN = "demo:smollm2-135m"
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")
# Ten edits alone say little about where they end: more unrelated rows for each. Training the upper
# layers alone takes a third of the time of full fine-tuning.
SETTINGS = EditSettings(
    method="last-n-layers",
    last_layers=12,
    learning_rate=2e-4,
    epochs=16,
    unrelated_ratio=3.0,
    held_back=2.0,
)


def run_demo(out: Path, *, mesh: str | None = None) -> None:
    """Edit SmolLM2-135M with the package's ten facts, evaluate two targets, answer questions.

    Args:
        out: folder for the edited plug-in (`plugin/`) and the results.
        mesh: how devices share the work, as it is typed.
    """
    devices = parse_mesh(mesh)
    started = time.monotonic()
    edits = demo_path("demo_edits.jsonl")
    records = load_records(edits)
    plugin = edit(
        PLUGIN,
        edits,
        demo_path("demo_unrelated.json"),
        out / "plugin",
        format="jsonl",
        mesh=mesh,
        settings=SETTINGS,
    )
    ensemble = Ensemble(
        plugin, [load_target(target, mesh=devices) for target in TARGETS], mesh=devices
    )
    report_evaluation(
        ensemble,
        records,
        out / "results.json",
        evaluate(ensemble, records, mode="both"),
        plugin_alone(ensemble.plugin, records),
    )
    first, second, third = records[:3]
    questions = [first.prompt, second.prompt, third.rephrase or third.prompt]
    questions.append(first.locality[0].prompt)
    print_answers(ensemble, questions, max_new_tokens=12)
    out_console.print(f"done in {time.monotonic() - started:.0f} s: {out}")
