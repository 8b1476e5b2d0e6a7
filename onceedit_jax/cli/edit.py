"""`onceedit edit`: edit a plug-in once, with all the facts of a file."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import parse_yaml

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from onceedit_jax.data.records import EditRecord, UnrelatedRow
    from onceedit_jax.distributed.hosts import Host
    from onceedit_jax.editing.artifact import EditedPlugin
    from onceedit_jax.editing.editor import Editor
    from onceedit_jax.editing.trainer import Progress
    from onceedit_jax.models.weights import LoadedModel
    from onceedit_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EditOptions:
    """An edit from files.

    Attributes:
      facts: file of edits, or the hub name of a data set.
      plugin: the plug-in: a folder, hub id, .gguf file or demo:NAME.
      out: folder for the edited plug-in.
      unrelated: file of texts that no edit concerns; None takes the library's neutral texts.
      format: layout of the edits: auto, or the name of a reader.
      limit: use so many edits, the first ones.
      examples: file of other records, whose rephrases show how questions may be worded.
      paraphrase_with: a model that words each edit anew before the edit is made, for relations that
        the library's bank does not hold: a folder, hub id, .gguf file or demo:NAME.
      evaluated: file of further records that will be evaluated; their questions are not trained on.
      strip_nq: remove "nq question:" from unrelated rows, so that the gate cannot go by it.
      drop_leaks: leave out unrelated rows that are evaluated, instead of refusing them.
      editor: name of an editing method; None takes the one of --method.
      editor_option: one of this method's settings, as in layer=12.
      start: folder of a plug-in that was edited earlier; its edits stay.
      replay: earlier edits that are trained again, for each new one.
      resume: continue an interrupted run of the same edits and settings.
      mesh: how devices share the work, as in data=4,tensor=2; None gives each some of the rows.
      distributed: auto, or ADDRESS:PORT,COUNT,INDEX, where several hosts edit together.
      log_dir: folder for TensorBoard, which gets the figures of every step.
      settings: how the plug-in is edited.
    """

    facts: Annotated[Positional[str], arg(metavar="FACTS")]
    plugin: str
    out: Path
    unrelated: str | None = None
    format: str = "auto"
    limit: int | None = None
    examples: str | None = None
    paraphrase_with: Annotated[str | None, arg(metavar="MODEL")] = None
    evaluated: str | None = None
    strip_nq: bool = False
    drop_leaks: bool = False
    editor: Annotated[str | None, arg(metavar="NAME")] = None
    editor_option: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    start: Path | None = None
    replay: float = 1.0
    resume: bool = False
    mesh: str | None = None
    distributed: str | None = None
    log_dir: Path | None = None
    settings: EditSettings = EditSettings()  # noqa: RUF009 (frozen)


def edit(options: Annotated[EditOptions, arg(name="")]) -> None:
    """Edit a plug-in once, with all the facts of a file."""
    from onceedit_jax.cli.console import note
    from onceedit_jax.cli.progress import editing_progress
    from onceedit_jax.distributed.hosts import is_first

    with editing_progress(options.log_dir) as on_step:
        edited = edit_from_files(options, on_step=on_step, on_note=note)
    if is_first(together=True):
        print_edited(edited, options.out)


def print_edited(edited: "EditedPlugin", out: Path) -> None:
    """Print one line about a new edited plug-in."""
    from onceedit_jax.cli.console import out as console

    info = edited.info
    metrics, earlier = info.metrics, info.edited_before
    threshold = info.rule.alpha_thresholds[edited.default_gate.name]
    figures = f"alpha threshold {threshold:.2f}"
    if metrics.gate_accuracy is not None:
        figures = f"gate {_figure(metrics.gate_accuracy)}, {figures}"
    console.print(
        f"edited {edited.name} with {len(info.edits) - earlier} facts"
        f"{f', after {earlier} earlier ones,' if earlier else ''} in {metrics.epochs} epochs, "
        f"{metrics.seconds:.0f} s (Rel {_figure(metrics.reliability)}, {figures}): {out}"
    )


def _figure(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def edit_from_files(
    options: EditOptions,
    *,
    on_step: Callable[["Progress"], None] = lambda step: None,
    on_note: Callable[[str], None] = lambda text: None,
) -> "EditedPlugin":
    """Edit a plug-in with a file of edits, and save the artifact.

    Args:
      options: files and settings.
      on_step: called with the progress after each training step.
      on_note: called with one line about each thing in the files that a user should know.

    Raises:
      InputError: a file that cannot be read, or what `onceedit_jax.edit` refuses.
      RunError: the loss stopped being finite; or the artifact cannot be written, or another program
        is writing it, which is found before anything is trained.
    """
    from onceedit_jax.distributed.hosts import join
    from onceedit_jax.editing.artifact import ARTIFACT
    from onceedit_jax.storage.files import check_replaceable, locked_by_first

    host = join(options.distributed)
    check_replaceable(options.out, ARTIFACT)
    with locked_by_first(options.out, together=host.count > 1, seconds=0):
        return _edited(options, host, on_step, on_note)


def _edited(
    options: EditOptions,
    host: "Host",
    on_step: Callable[["Progress"], None],
    on_note: Callable[[str], None],
) -> "EditedPlugin":
    """See `edit_from_files`; nobody else writes the artifact meanwhile."""
    from onceedit_jax.data.loaders import load_records
    from onceedit_jax.editing.artifact import EditedPlugin
    from onceedit_jax.editing.edit import edit as edit_plugin
    from onceedit_jax.models.weights import load_model
    from onceedit_jax.text.tokenizer import load_tokenizer

    editor = _editor(options)
    mesh = _mesh(options.mesh, hosts=host.count)

    def on_warning(text: str) -> None:
        on_note(f"warning: {text}")

    load = partial(load_records, on_warning=on_warning)
    records = load(options.facts, options.format, limit=options.limit)
    _note_records(records, on_note)
    evaluated = load(options.evaluated) if options.evaluated else []
    start = EditedPlugin.load(options.start, mesh=mesh) if options.start else None
    if start and start.info.in_adapters:
        raise InputError(
            f"--start {options.start}: its edits are in adapters; add to it with `onceedit add "
            f"{options.facts} --to {options.start}`, which keeps its ledger"
        )
    unrelated = _unrelated_rows(options, records, evaluated, start, on_note)
    rows = (
        "the library's neutral texts" if unrelated is None else f"{len(unrelated)} unrelated rows"
    )
    on_note(f"{len(records)} edits, {rows}; loading {options.plugin}")
    tokenizer = load_tokenizer(options.plugin)
    model = load_model(options.plugin, num_tokens=len(tokenizer.vocabulary), mesh=mesh)
    examples = load(options.examples) if options.examples else []
    if options.paraphrase_with:
        examples += _written_examples(
            options.paraphrase_with, model, tokenizer, records, evaluated, on_note
        )
    checkpoint = options.out.resolve()
    checkpoint = checkpoint.with_name(checkpoint.name + ".checkpoint")
    edited = edit_plugin(
        model,
        tokenizer,
        records,
        unrelated,
        options.settings,
        editor=editor,
        examples=examples,
        evaluated=evaluated,
        start=start,
        replay=options.replay,
        mesh=mesh,
        checkpoint=checkpoint,
        resume=options.resume,
        on_step=on_step,
        on_warning=on_warning,
    )
    edited.save(options.out)
    if host.index == 0:
        shutil.rmtree(checkpoint, ignore_errors=True)
    return edited


def _written_examples(
    writer: str,
    model: "LoadedModel",
    tokenizer: "Tokenizer",
    records: "Sequence[EditRecord]",
    evaluated: "Sequence[EditRecord]",
    on_note: Callable[[str], None],
) -> "list[EditRecord]":
    """Wordings by a model of the edits whose relation the bank does not hold, as examples."""
    from onceedit_jax.editing.relation_heads import find_head
    from onceedit_jax.editing.rewording import as_examples
    from onceedit_jax.ensemble.paraphrasing import paraphrases_by
    from onceedit_jax.ensemble.target import load_target

    head = find_head(model.content_hash)
    unknown = list(records)
    if head is not None:
        reader = head.reader(model, tokenizer)
        relations = head.bank_relations(reader, records)
        unknown = [r for r, known in zip(records, relations, strict=True) if known is None]
    on_note(f"the bank holds no relation of {len(unknown)} of {len(records)} edits")
    if not unknown:
        return []
    on_note(f"{writer} words these anew; that takes a while")
    wordings = paraphrases_by(load_target(writer), unknown, evaluated=evaluated)
    written = sum(map(len, wordings))
    if head is not None:
        wordings = head.asking_the_same(reader, unknown, wordings)
    kept = sum(map(len, wordings))
    rest = f", {written - kept} more ask for something else" if kept < written else ""
    on_note(f"{writer} has written {kept} wordings of {len(unknown)} edits{rest}")
    return as_examples(unknown, wordings)


def _editor(options: EditOptions) -> "Editor | None":
    """The editing method that is named, with its settings."""
    from onceedit_jax.editors.registry import editor_by_name

    if options.editor is None:
        if options.editor_option:
            raise InputError(
                f"--editor-option {options.editor_option[0]}: it is a setting of the method that "
                "--editor names; name one"
            )
        return None
    return editor_by_name(options.editor, dict(map(_setting, options.editor_option)))


def _setting(typed: str) -> tuple[str, Any]:
    """KEY=VALUE, the value read as YAML: 12 is a number and [4, 5] a list."""
    key, sign, value = typed.partition("=")
    if not sign or not key:
        raise InputError(f"--editor-option {typed}: expected KEY=VALUE, as in layer=12")
    return key, parse_yaml(value, f"--editor-option {typed}")


def _mesh(typed: str | None, *, hosts: int) -> "Mesh | None":
    """The mesh of an edit; one of several hosts has to have all their devices."""
    import jax

    from onceedit_jax.distributed.mesh import data_mesh, parse_mesh

    mesh = parse_mesh(typed)
    if hosts == 1:
        return mesh
    mesh = mesh or data_mesh(jax.devices())  # an edit is one piece of work: hosts do it together
    if not mesh.is_multi_process:
        raise InputError(
            f"--mesh {typed}: {mesh.size} devices of one host; expected axes whose sizes "
            f"give all hosts' {jax.device_count()}"
        )
    return mesh


def _unrelated_rows(
    options: EditOptions,
    records: "Sequence[EditRecord]",
    evaluated: "Sequence[EditRecord]",
    start: "EditedPlugin | None",
    on_note: Callable[[str], None],
) -> "list[UnrelatedRow] | None":
    """The unrelated rows of a file, without those that leak if these are to be left out."""
    from onceedit_jax.data.leakage import drop_leaks
    from onceedit_jax.data.loaders import load_unrelated
    from onceedit_jax.data.records import without_nq
    from onceedit_jax.editing.edit import earlier_edits

    if options.unrelated is None:
        return None
    rows = load_unrelated(options.unrelated, on_warning=lambda text: on_note(f"warning: {text}"))
    if options.strip_nq:
        rows = [without_nq(row) for row in rows]
    if options.drop_leaks:
        earlier = earlier_edits(start, records) if start else []
        rows, leaking = drop_leaks(rows, [*records, *earlier, *evaluated])
        if leaking:
            on_note(f"left out {len(leaking)} unrelated rows that are evaluated, or are edits")
    return rows


def _note_records(records: "Sequence[EditRecord]", on_note: Callable[[str], None]) -> None:
    """Note how many edits repeat or contradict one another, or have answers of several lines."""
    from onceedit_jax.data.records import contradicting, duplicates

    repeated, opposed = duplicates(records), contradicting(records)
    if repeated:
        on_note(f"{len(repeated)} of {len(records)} edits repeat an earlier one")
    if opposed:
        on_note(
            f"{len(opposed)} of {len(records)} edits contradict another one; not all of them can "
            "be learnt"
        )
    if lines := sum("\n" in record.target.strip() for record in records):
        on_note(
            f"{lines} of {len(records)} answers have several lines; a target that is asked in "
            "plain text writes the first one, and one that is asked in chat writes all (--chat)"
        )
