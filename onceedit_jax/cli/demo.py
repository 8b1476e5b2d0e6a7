"""`onceedit demo`: one plug-in edited once, and the answers of real models before and after."""

import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

if TYPE_CHECKING:
    from onceedit_jax.data.records import EditRecord
    from onceedit_jax.ensemble import Ensemble

PLUGIN = "demo:smollm2-135m"
TARGETS = ("demo:gemma3-270m", "demo:smollm2-135m")
LARGE_TARGET = "demo:qwen2.5-coder-1.5b"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The demonstration.

    Attributes:
      out: folder for the edited plug-in (`plugin/`) and the results.
      mesh: how devices share the work, as in data=4,tensor=2; None gives each some of the rows.
      large: let one chat model of 1.5 billion parameters answer, in place of the two small models
        (1.1 GB to download).
      chat: ask the last questions in chat where a target has a chat template; the scores are those
        of plain prompts.
    """

    out: Path = Path("runs/demo")
    mesh: str | None = None
    large: bool = False
    chat: bool = True


def demo(options: Annotated[DemoOptions, arg(name="")]) -> None:
    """Edit SmolLM2-135M with ten facts and question other LLMs, before and after."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.cli.evaluate import print_report
    from onceedit_jax.cli.generate import print_answers
    from onceedit_jax.data.loaders import load_records
    from onceedit_jax.data.records import demo_path
    from onceedit_jax.evaluation.from_files import write_report
    from onceedit_jax.evaluation.protocol import evaluate, plugin_alone

    started = time.monotonic()
    ensemble = _edited_ensemble(options)
    records = load_records(demo_path("demo_edits.jsonl"))
    evaluation = evaluate(ensemble, records, mode="both")
    alone = plugin_alone(ensemble.plugin, records)
    results = options.out / "results.json"
    print_report(write_report(ensemble, records, evaluation, alone, results))
    questions = _questions(records)
    asked = ensemble.with_chat(None) if options.chat else ensemble
    answers = asked.generate(questions, max_new_tokens=16)
    names = [target.name for target in ensemble.targets]
    print_answers(questions, names, answers, ensemble.plugin.info.numbers)
    out.print(f"done in {time.monotonic() - started:.0f} s: {options.out}")


def _edited_ensemble(options: DemoOptions) -> "Ensemble":
    """The edited plug-in with its targets."""
    from onceedit_jax.cli.console import note
    from onceedit_jax.cli.edit import EditOptions, edit_from_files, print_edited
    from onceedit_jax.cli.progress import editing_progress
    from onceedit_jax.data.records import demo_path
    from onceedit_jax.distributed.mesh import parse_mesh
    from onceedit_jax.ensemble import Ensemble, load_target

    editing = EditOptions(
        facts=str(demo_path("demo_edits.jsonl")),
        plugin=PLUGIN,
        out=options.out / "plugin",
        mesh=options.mesh,
    )
    with editing_progress() as on_step:
        plugin = edit_from_files(editing, on_step=on_step, on_note=note)
    print_edited(plugin, editing.out)
    mesh = parse_mesh(options.mesh)
    names = (LARGE_TARGET,) if options.large else TARGETS
    targets = [load_target(name, mesh=mesh) for name in names]
    return Ensemble(plugin, targets, chat=False, mesh=mesh)


def _questions(records: "list[EditRecord]") -> list[str]:
    """Edits as they are, reworded, as people type and in a text; and what no edit answers.

    That is another fact of an edited subject, the same fact of another time, and another subject.
    """
    from onceedit_jax.evaluation.forms import for_another

    first, second, third = records[:3]
    return [
        first.prompt,
        third.rephrase or third.prompt,
        second.prompt.lower().rstrip("?"),
        f"We are writing about {first.subject} at school. {first.prompt} Nobody here knows.",
        f"Who is the prime minister of {first.subject}?",
        *islice(for_another(first.prompt, first.subject or ""), 1),
        first.locality[0].prompt,
    ]
