"""Evaluation from files to files: load, score in parts, write the summary and the records."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from onceedit_jax.data.leakage import trained_on
from onceedit_jax.data.loaders import WARN, OnWarning, load_records
from onceedit_jax.data.records import EditRecord, without_nq
from onceedit_jax.decoding.many_rows import ROWS
from onceedit_jax.decoding.options import Speculate
from onceedit_jax.distributed.hosts import Host, join
from onceedit_jax.distributed.mesh import parse_mesh, platform_of
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.settings import fingerprint
from onceedit_jax.ensemble import Ensemble, load_target
from onceedit_jax.ensemble.side import OnBlock
from onceedit_jax.evaluation.asked import questions
from onceedit_jax.evaluation.metrics import Scores
from onceedit_jax.evaluation.options import EnsembleOptions, EvaluationOptions, records_file
from onceedit_jax.evaluation.protocol import (
    Block,
    Evaluation,
    evaluate_block,
    gathered,
    plugin_alone,
)
from onceedit_jax.evaluation.resumable import ResumableEvaluation
from onceedit_jax.evaluation.rule_choice import RuleChoice, choose_rules
from onceedit_jax.evaluation.summaries import summary, warnings, write_json, write_jsonl
from onceedit_jax.fusion.types import FusionRule
from onceedit_jax.gates.types import FittedGate, Gate
from onceedit_jax.models.parameters import parameter_count
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage.files import locked_by_first
from onceedit_jax.storage.versions import versions

MOST_IN_PART = 64  # records
PARAMETERS_IN_PART = 64 * 5e8  # on a CPU: parameters times records, minutes of work


@dataclasses.dataclass(frozen=True)
class EvaluationReport:
    """A finished evaluation, as it was written.

    Attributes:
      out: the summary's file.
      summary: its content, see docs/data-formats.md.
      evaluation: all scores and alphas.
      warnings: what looks wrong, each with a remedy.
    """

    out: Path
    summary: dict[str, Any]
    evaluation: Evaluation
    warnings: list[str]


def open_ensemble(
    options: EnsembleOptions,
    *,
    rule: FusionRule | None = None,
    gate: Gate | FittedGate | None = None,
    chat: bool | None = None,
    speculate: Speculate = "off",
    on_block: OnBlock = lambda name, done, total: None,
    on_choice: Callable[[RuleChoice], None] | None = None,
) -> Ensemble:
    """Load an edited plug-in and its targets.

    Args:
      options: which.
      rule: the fusion rule (default: `fusion.draft()`).
      gate: the gate, fitted or not (default: the plug-in's `default_gate`).
      chat: whether the targets are asked in chat, see `Ensemble`.
      speculate: whether the plug-in drafts for what targets say alone, see `Ensemble`.
      on_block: called with (model name, blocks done, all blocks) while a table is built.
      on_choice: choose each target's rule by `choose_rules`, in place of `rule`; called with each.

    Raises:
      InputError: a plug-in or target that cannot be read, or settings that do not fit the rule.
    """
    mesh = parse_mesh(options.mesh)
    dtype = options.compute_dtype
    plugin = EditedPlugin.load(
        options.edited, base=options.base, compute_dtype=dtype, mesh=mesh, verify=options.verify
    )
    targets = [
        load_target(
            name,
            dtype=options.target_dtype,
            compute_dtype=dtype,
            mesh=mesh,
            verify=options.verify,
        )
        for name in options.target
    ]
    prepare = partial(
        Ensemble,
        plugin,
        targets,
        gate=gate,
        alpha_threshold=options.alpha_threshold,
        hops=options.hops,
        chat=chat,
        system=options.system,
        speculate=speculate,
        mesh=mesh,
        on_block=on_block,
    )
    if on_choice is None:
        return prepare(rule=rule)
    choices = choose_rules(prepare())
    for choice in choices:
        on_choice(choice)
    return prepare(rule=[choice.rule for choice in choices])


def evaluate_from_files(
    options: EvaluationOptions,
    *,
    rule: FusionRule | None = None,
    gate: Gate | FittedGate | None = None,
    on_block: OnBlock = lambda name, done, total: None,
    on_records: Callable[[int, int], None] = lambda done, total: None,
    on_choice: Callable[[RuleChoice], None] | None = None,
    on_warning: OnWarning = WARN,
) -> EvaluationReport | None:
    """Evaluate an edited plug-in through its targets, over a file of records.

    The records are evaluated in parts, which are saved: an interrupted evaluation goes on after the
    last one. Several hosts share the parts.

    Args:
      options: plug-in, targets, data and output.
      rule: the fusion rule (default: `fusion.draft()`).
      gate: the gate, fitted or not (default: the plug-in's `default_gate`).
      on_block: called with (model name, blocks done, all blocks) while a table is built.
      on_records: called with (records done, all records) before each part and at the end.
      on_choice: choose each target's rule by `choose_rules`, in place of `rule`; called with each.
      on_warning: called with what `load_records` warns of.

    Returns:
      The report; None on every host but the first, which writes it.

    Raises:
      InputError: an input that cannot be read, or settings that do not fit the rule.
      RunError: the output cannot be written, or another program is writing it.
    """
    host = join(options.distributed)
    with locked_by_first(options.out, together=host.count > 1, seconds=0):
        return _evaluated(
            options,
            host,
            rule=rule,
            gate=gate,
            on_block=on_block,
            on_records=on_records,
            on_choice=on_choice,
            on_warning=on_warning,
        )


def _evaluated(
    options: EvaluationOptions,
    host: Host,
    *,
    rule: FusionRule | None,
    gate: Gate | FittedGate | None,
    on_block: OnBlock,
    on_records: Callable[[int, int], None],
    on_choice: Callable[[RuleChoice], None] | None,
    on_warning: OnWarning,
) -> EvaluationReport | None:
    """See `evaluate_from_files`; nobody else writes its output meanwhile."""
    records = load_records(options.data, options.format, limit=options.limit, on_warning=on_warning)
    if options.strip_nq:
        records = [without_nq(record) for record in records]
    chat = options.chat or options.system is not None
    ensemble = open_ensemble(
        options, rule=rule, gate=gate, chat=chat, on_block=on_block, on_choice=on_choice
    )

    if options.mode != "teacher-forced":
        texts = len(questions(records))
        steps = -(-texts // ROWS) * options.max_new_tokens
        # Where texts are scored as well, there are more programs to compile.
        ensemble = ensemble.unrolled_for(steps // 4 if options.mode == "both" else steps)

    def measure(some: Sequence[EditRecord]) -> Block:
        on_records(some[0].index, len(records))
        return evaluate_block(
            ensemble, some, mode=options.mode, max_new_tokens=options.max_new_tokens
        )

    types = options.target_dtype, options.compute_dtype
    part = options.part or usual_part([target.model for target in ensemble.targets])
    choices = [options.mode, options.max_new_tokens, *types, part]
    parts = ResumableEvaluation(options.out, _evaluation_key(ensemble, records, choices))
    together = ensemble.mesh.is_multi_process
    blocks = parts.gather(records, measure, host, size=part, together=together)
    on_records(len(records), len(records))
    alone = plugin_alone(ensemble.plugin, records) if together or not host.index else None
    if blocks is None or alone is None:
        return None
    evaluation = gathered(ensemble, records, blocks, mode=options.mode)
    report = write_report(ensemble, records, evaluation, alone, options.out)
    parts.remove()
    return report


def usual_part(models: Sequence[LoadedModel]) -> int:
    """How many records are evaluated before they are saved.

    Larger parts make better use of the hardware, and an interruption loses more work. The size
    depends on the models alone and not on the time that a part takes: the same command gives the
    same batches, and so the same numbers.

    Args:
      models: the targets.
    """
    part, largest = MOST_IN_PART, max(parameter_count(model.config) for model in models)
    if platform_of(models[0].params) == "cpu":
        while part > 1 and part * largest > PARAMETERS_IN_PART:
            part //= 2
    return part


def write_report(
    ensemble: Ensemble,
    records: Sequence[EditRecord],
    evaluation: Evaluation,
    alone: Scores,
    out: Path,
) -> EvaluationReport:
    """Write an evaluation's summary to `out`, and its records beside it as JSON lines.

    Args:
      ensemble: what was evaluated.
      records: on which records.
      evaluation: the scores.
      alone: scores of the edited plug-in by itself.
      out: the summary's file.

    Raises:
      RunError: a file cannot be written.
    """
    info = ensemble.plugin.info
    whole = summary(
        evaluation.results,
        plugin={
            "name": ensemble.plugin.name,
            **alone.as_dict(),
            "rule": dataclasses.asdict(info.rule),
        },
        settings={"editing": info.settings, **rule_and_gate_settings(ensemble)},
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, whole)
    write_jsonl(records_file(out), evaluation.records)
    coverage = {
        target.name: target.health[1].coverage if target.health else None
        for target in ensemble.prepared
    }
    suspicious = warnings(
        evaluation.results,
        alphas=evaluation.alphas,
        losses=evaluation.losses,
        coverage=coverage,
        trained=trained_on(records, info.trained_texts),
    )
    return EvaluationReport(out, whole, evaluation, suspicious)


def _evaluation_key(ensemble: Ensemble, records: Sequence[EditRecord], choices: Any) -> str:
    """A hash of all that an evaluation depends on, so that parts of another one are not reused."""
    info = ensemble.plugin.info
    return fingerprint(
        info.base.content_hash,
        info.settings,
        dataclasses.asdict(info.metrics),
        sorted(info.trained_texts),
        [target.model.content_hash for target in ensemble.targets],
        rule_and_gate_settings(ensemble),
        [dataclasses.asdict(record) for record in records],
        choices,
        versions(),
    )


def rule_and_gate_settings(ensemble: Ensemble) -> dict[str, Any]:
    """How an ensemble fuses and asks its targets, as plain values."""
    gate = ensemble.gate.gate
    by_target = {
        target.name: {"name": target.rule.name, **_settings(target.rule.settings)}
        for target in ensemble.prepared
    }
    first, *others = by_target.values()
    return {
        "fusion": by_target if any(other != first for other in others) else first,
        "gate": {"name": gate.name, **_settings(gate.settings)},
        "alpha_threshold": ensemble.threshold,
        "hops": ensemble.hops,
        "chat": bool(ensemble.chat),
        "system": ensemble.system,
    }


def _settings(record: Any) -> dict[str, Any]:
    """A settings record as plain values; one that is no dataclass as its text."""
    if record is None:
        return {}
    is_record = dataclasses.is_dataclass(record) and not isinstance(record, type)
    return dataclasses.asdict(record) if is_record else {"settings": repr(record)}
