"""What each command does: files and names in, library calls, files and a few lines of text out."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from onceedit_jax.cli.progress import editing_progress, err, table_progress
from onceedit_jax.data.leakage import drop_leaks, trained_on
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.records import EditRecord, contradicting, duplicates, without_nq
from onceedit_jax.distributed.hosts import join
from onceedit_jax.distributed.mesh import data_mesh, parse_mesh
from onceedit_jax.editing.artifact import ARTIFACT, EditedPlugin, read_info
from onceedit_jax.editing.edit import earlier_edits
from onceedit_jax.editing.edit import edit as edit_plugin
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.ensemble import Ensemble, load_target
from onceedit_jax.ensemble.fidelity import fidelity
from onceedit_jax.ensemble.pair import Side, build_transfer
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.metrics import Scores
from onceedit_jax.evaluation.protocol import (
    Evaluation,
    Mode,
    evaluate_block,
    gathered,
    plugin_alone,
)
from onceedit_jax.evaluation.resumable import ResumableEvaluation
from onceedit_jax.evaluation.summaries import summary, table, warnings, write_json, write_jsonl
from onceedit_jax.fusion.rules import PRESETS, FusionSettings
from onceedit_jax.models.weights import load_model
from onceedit_jax.relative.build import Kind
from onceedit_jax.relative.transfer import Normalization
from onceedit_jax.storage.files import check_replaceable
from onceedit_jax.storage.versions import versions
from onceedit_jax.text.tokenizer import load_tokenizer

# Tables keep their shape in a file or a pipe, where there is no terminal to ask for its width.
out_console = Console(width=None if sys.stdout.isatty() else 110, markup=False)


def edit(
    plugin: str,
    edits: Path,
    unrelated: Path,
    out: Path,
    *,
    format: str = "auto",
    limit: int | None = None,
    examples: Path | None = None,
    evaluated: Path | None = None,
    strip_nq: bool = False,
    leave_out_leaks: bool = False,
    start: Path | None = None,
    replay: float = 1.0,
    resume: bool = False,
    mesh: str | None = None,
    distributed: str | None = None,
    settings: EditSettings = EditSettings(),  # noqa: B008 (frozen)
) -> EditedPlugin:
    """Edit a plug-in with a file of edits and write the artifact."""
    host = join(distributed)
    check_replaceable(out, ARTIFACT)
    devices = parse_mesh(mesh)
    if host.count > 1:  # an edit is one piece of work: all hosts do it together
        devices = devices or data_mesh(jax.devices())
        if not devices.is_multi_process:
            raise InputError(
                f"--mesh {mesh}: {devices.size} devices of one host; expected axes whose sizes "
                f"give all hosts' {jax.device_count()}"
            )
    records = load_records(edits, format, limit=limit)
    report_records(records)
    rows = load_unrelated(unrelated)
    later = load_records(evaluated) if evaluated else []
    if strip_nq:
        rows = [without_nq(row) for row in rows]
    before = EditedPlugin.load(start, mesh=devices) if start else None
    if leave_out_leaks:
        earlier = earlier_edits(before, records) if before else []
        rows, dropped = drop_leaks(rows, [*records, *earlier, *later])
        if dropped:
            err.print(f"left out {len(dropped)} unrelated rows that are evaluated, or edits")
    tokenizer = load_tokenizer(plugin)
    model = load_model(plugin, num_tokens=len(tokenizer.vocabulary), mesh=devices)
    checkpoint = out.resolve()
    checkpoint = checkpoint.with_name(checkpoint.name + ".checkpoint")
    with editing_progress() as on_step:
        edited = edit_plugin(
            model,
            tokenizer,
            records,
            rows,
            settings,
            examples=load_records(examples) if examples else (),
            evaluated=later,
            start=before,
            replay=replay,
            mesh=devices,
            checkpoint=checkpoint,
            resume=resume,
            on_step=on_step,
        )
    edited.save(out)
    if host.index:
        return edited
    shutil.rmtree(checkpoint, ignore_errors=True)
    metrics, rule = edited.info["metrics"], PRESETS[edited.info["rule"]["fusion"]]
    kept = edited.info["edited_before"]
    out_console.print(
        f"edited {edited.name} with {len(records)} facts"
        f"{f', after {kept} earlier ones,' if kept else ''} in {metrics['epochs']} epochs "
        f"(Rel {metrics['reliability']:.2f}, gate {metrics['gate_accuracy']:.2f}, "
        f"alpha threshold {edited.alpha_threshold(rule.gate):.2f}): {out}"
    )
    return edited


def evaluate(
    edited: Path,
    targets: Sequence[str],
    data: str,
    out: Path,
    *,
    dataset: str = "auto",
    limit: int | None = None,
    mode: Mode = "teacher-forced",
    strip_nq: bool = False,
    fusion: str | None = None,
    overrides: dict[str, Any] | None = None,
    alpha_threshold: float | None = None,
    table: Kind | None = None,
    max_new_tokens: int = 20,
    dtype: str = "float32",
    mesh: str | None = None,
    distributed: str | None = None,
    part: int = 64,
) -> None:
    """Evaluate an edited plug-in through its targets, print the table, write the summary."""
    if Path(data).resolve() in (out.resolve(), _records_file(out).resolve()):
        raise InputError(
            f"--out {out} would write over the data {data}: the records go to "
            f"{_records_file(out).name} beside it; give --out another name"
        )
    if out.suffix == ".jsonl":
        raise InputError(
            f"--out {out}: the summary is one JSON value, and the records go beside it as .jsonl; "
            "give --out a name that ends otherwise, as in results.json"
        )
    if part < 1:
        raise InputError(f"--part {part}: expected at least one record in a part")
    host = join(distributed)
    devices = parse_mesh(mesh)
    plugin = EditedPlugin.load(edited, mesh=devices)
    records = load_records(data, dataset, limit=limit)
    if strip_nq:
        records = [without_nq(record) for record in records]
    settings = fusion_settings(plugin, fusion, overrides or {})
    with table_progress() as on_block:
        ensemble = Ensemble(
            plugin,
            [load_target(target, dtype=dtype, mesh=devices) for target in targets],
            fusion=settings,
            alpha_threshold=alpha_threshold,
            table=table,
            mesh=devices,
            on_block=on_block,
        )
    measure = partial(evaluate_block, ensemble, mode=mode, max_new_tokens=max_new_tokens)
    parts = ResumableEvaluation(
        out, evaluation_key(ensemble, records, [mode, max_new_tokens, dtype, table, part])
    )
    together = ensemble.mesh.is_multi_process
    blocks = parts.gather(records, measure, host, size=part, together=together)
    alone = plugin_alone(ensemble.plugin, records) if together or not host.index else None
    if blocks is None or alone is None:
        err.print(f"host {host.index}: its parts are done; host 0 writes {out}")
        return
    found = gathered(ensemble, records, blocks, mode=mode)
    report_evaluation(ensemble, records, out, found, alone)
    parts.remove()


def evaluation_key(ensemble: Ensemble, records: Sequence[EditRecord], options: Any) -> str:
    """A hash of all that an evaluation depends on: a part of another one is never taken for its."""
    info = ensemble.plugin.info
    return fingerprint(
        info["base"]["content_hash"],
        info["settings"],
        info["metrics"],
        sorted(info["trained_texts"]),
        [target.model.content_hash for target in ensemble.targets],
        dataclasses.asdict(ensemble.settings),
        ensemble.threshold,
        [dataclasses.asdict(record) for record in records],
        options,
        versions(),
    )


def report_evaluation(
    ensemble: Ensemble,
    records: Sequence[EditRecord],
    out: Path,
    found: Evaluation,
    alone: Scores,
) -> dict[str, Any]:
    """Write summary and records, print table and warnings; the summary is returned.

    `alone` are the scores of the edited plug-in by itself.
    """
    info = ensemble.plugin.info
    whole = summary(
        found.results,
        plugin={"name": ensemble.plugin.name, **alone.as_dict(), "rule": info["rule"]},
        settings={
            "editing": info["settings"],
            "fusion": dataclasses.asdict(ensemble.settings),
            "alpha_threshold": ensemble.threshold,
        },
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, whole)
    write_jsonl(_records_file(out), found.records)
    out_console.print(table(found.results, plugin=whole["plugin"]))
    coverage = {
        target.name: health[1].coverage if health else None
        for target, health in zip(ensemble.targets, ensemble.health, strict=True)
    }
    for text in warnings(
        found.results,
        alphas=found.alphas,
        losses=found.losses,
        coverage=coverage,
        trained=trained_on(records, info["trained_texts"]),
    ):
        out_console.print(f"warning: {text}")
    out_console.print(f"written: {out}")
    return whole


def _records_file(out: Path) -> Path:
    """Where an evaluation's records go, beside its summary."""
    return out.with_name(out.name.removesuffix(".json") + ".jsonl")


def generate(
    edited: Path,
    targets: Sequence[str],
    prompts: Sequence[str],
    *,
    fusion: str | None = None,
    overrides: dict[str, Any] | None = None,
    alpha_threshold: float | None = None,
    max_new_tokens: int = 20,
    dtype: str = "float32",
    mesh: str | None = None,
) -> None:
    """Print each target's answers before and after."""
    devices = parse_mesh(mesh)
    plugin = EditedPlugin.load(edited, mesh=devices)
    with table_progress() as on_block:
        ensemble = Ensemble(
            plugin,
            [load_target(target, dtype=dtype, mesh=devices) for target in targets],
            fusion=fusion_settings(plugin, fusion, overrides or {}),
            alpha_threshold=alpha_threshold,
            mesh=devices,
            on_block=on_block,
        )
    print_answers(ensemble, prompts, max_new_tokens=max_new_tokens)


def print_answers(ensemble: Ensemble, prompts: Sequence[str], *, max_new_tokens: int = 20) -> None:
    """A table of answers: one block a prompt, one row a target."""
    answers = ensemble.generate(prompts, max_new_tokens=max_new_tokens)
    rows = Table("prompt", "alpha", "target", "before", "after", show_lines=False)
    for i, prompt in enumerate(prompts):
        for t, target in enumerate(ensemble.targets):
            first = (prompt, f"{answers.alphas[i]:.2f}") if t == 0 else ("", "")
            texts = (answers.before[t][i], answers.after[t][i])
            rows.add_row(*first, target.name, *(text or "(nothing)" for text in texts))
        rows.add_section()
    out_console.print(rows)


def transfer(
    plugin: str,
    target: str,
    normalization: Normalization,
    *,
    measure_fidelity: bool = False,
    mesh: str | None = None,
) -> None:
    """Build both tables of a pair and print anchors and health, and fidelity if asked."""
    devices = parse_mesh(mesh)
    source, target_model = (load_target(spec, mesh=devices) for spec in (plugin, target))
    settings = dataclasses.replace(PRESETS["relative"], normalization=normalization)
    sides, found = (Side.of_model(source), Side.of_model(target_model)), None
    with table_progress() as on_block:
        tables, health = build_transfer(*sides, settings, allow_lossy=True, on_block=on_block)
        assert health is not None
        if measure_fidelity:
            found = fidelity(*sides, tables, health, on_block=on_block)
    rows = Table("", source.name, target_model.name)
    for label, field, digits in (
        ("anchors", "anchors", 0),
        ("temperature", "temperature", 1),
        ("self-mass of anchors", "self_mass", 3),
        ("mass of other tokens on their neighbours", "neighbour_mass", 3),
        ("entropy of a row, nats", "entropy", 2),
        ("tokens of text that are anchors", "coverage", 3),
        ("mass of p R that the table holds", "held_mass", 3),
    ):
        values = [getattr(side, field) for side in health]
        rows.add_row(label, *("-" if v is None else f"{v:,.{digits}f}" for v in values))
    if found is not None:
        variations = (f"{value:.3f}" for value in found.total_variation)
        rows.add_row("total variation of p R from the exact one", *variations)
    out_console.print(rows)
    if found is not None:
        shares = ", ".join(f"{share:.3f} at alpha {a}" for a, share in found.agreement.items())
        out_console.print(f"argmax P as by exact products, {found.distributions} texts: {shares}")
    for side, name in zip(health, (source.name, target_model.name), strict=True):
        for text in side.warnings():
            out_console.print(f"warning: {name}: {text}")


def export(edited: Path, out: Path, dtype: str) -> None:
    """Write the edited plug-in as a Hugging Face folder with its gate beside it."""
    plugin = EditedPlugin.load(edited)
    plugin.export(out, dtype=dtype)
    out_console.print(f"written: {out}")


def info(edited: Path) -> None:
    """Print `edit.json`, its long lists shortened."""
    values = read_info(edited)
    edits = values.pop("edits")
    for key in ("hf_config", "config"):
        values["base"].pop(key, None)
    values.pop("history", None)
    values["edits"], values["trained_texts"] = len(edits), len(values["trained_texts"])
    out_console.print_json(json.dumps(values))
    for item in edits[:10]:
        out_console.print(f"  {item['prompt']} -> {item['target']}")
    if len(edits) > 10:
        out_console.print(f"  and {len(edits) - 10} more")


def fusion_settings(
    plugin: EditedPlugin, preset: str | None, overrides: dict[str, Any]
) -> FusionSettings:
    """A preset (default: the artifact's) with some of its axes changed."""
    name = preset or str(plugin.info["rule"]["fusion"])
    return dataclasses.replace(PRESETS[name], **overrides)


def report_records(records: Sequence[EditRecord]) -> None:
    """Say how many edits repeat or contradict one another."""
    repeated, opposed = duplicates(records), contradicting(records)
    if repeated:
        err.print(f"{len(repeated)} of {len(records)} edits repeat an earlier one")
    if opposed:
        err.print(
            f"{len(opposed)} of {len(records)} edits contradict another one; "
            "not all of them can be learnt"
        )
