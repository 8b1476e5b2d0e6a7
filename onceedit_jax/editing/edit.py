"""The editing stage: from records and unrelated rows to an edited plug-in (section 3.1)."""

import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from onceedit_jax.data.leakage import check_leaks, digest, drop_leaks
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, UnrelatedRow, neutral_rows, strip_nq
from onceedit_jax.distributed.mesh import data_mesh, lay, to_host
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import EditorInfo
from onceedit_jax.editing.augmentation import TrainingTexts, training_texts, unrelated_counts
from onceedit_jax.editing.checkpoint import Checkpoint
from onceedit_jax.editing.editor import (
    Editor,
    EditorInputs,
    EditorResult,
    editor_inputs,
    run_editor,
)
from onceedit_jax.editing.finalize import finalize_artifact
from onceedit_jax.editing.finalize_adapter import finalize_adapter
from onceedit_jax.editing.key_warnings import key_warnings, unconcerned_texts
from onceedit_jax.editing.relation_heads import LearntHead, find_head
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainer import Progress, Trained
from onceedit_jax.editing.tuning import editor_of, recorded_settings
from onceedit_jax.errors import InputError
from onceedit_jax.gates.weight_token import init_gate
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params


def edit(
    model: LoadedModel,
    tokenizer: Tokenizer,
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow] | None = None,
    settings: EditSettings = EditSettings(),  # noqa: B008 (frozen)
    *,
    editor: Editor | None = None,
    examples: Sequence[EditRecord] = (),
    evaluated: Sequence[EditRecord] = (),
    texts: Sequence[str] | None = None,
    start: EditedPlugin | None = None,
    replay: float = 1.0,
    ungated: Collection[int] = (),
    head: LearntHead | None = None,
    mesh: Mesh | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda progress: None,
    on_warning: Callable[[str], None] = partial(warnings.warn, stacklevel=2),  # noqa: B008 (pure)
) -> EditedPlugin:
    """Teach a plug-in all records at once, and its gate to tell them from everything else.

    Args:
      model: the base plug-in.
      tokenizer: its tokenizer.
      records: the edits; only prompt, target and subject are trained on.
      unrelated: texts that no edit is about, for the gate. `settings` say how many are trained on
        and how many are held back to fix the threshold; where some are given, the default method
        changes the weights and trains [WEIGHT]. The default is `data.records.neutral_rows`, without
        those that an edit or `evaluated` asks; many edits get fewer of them each. With a relation
        head and these settings' defaults they are only held back.
      settings: every choice of the editing stage.
      editor: the editing method, see `editing.editor` (default: by `settings.method`). An editor
        that trains no gate leaves the decision to the memory of the edits, or keeps the gate of
        `start`.
      examples: records that are no edits; their rephrases show how questions can be rephrased. A
        training split of the edits' own kind is best.
      evaluated: further records whose questions must not be trained on.
      texts: texts about anything, for editors that need statistics of the model (default: the
        prompts of `unrelated`).
      start: an edited plug-in of the same base to continue from. Its edits stay in scope and are
        replayed, except those whose prompt is also in `records`.
      replay: number of earlier edits that are trained again, per new one; none for an adapter.
      ungated: positions of records whose answers are trained but that do not train the gate; all of
        them for an adapter.
      head: the relation head of the model, for the gate `fact` (default: the one that is shipped or
        was learnt on this machine; without any there is no such gate).
      mesh: how devices share the work (default: every device takes a part of a batch's rows).
      checkpoint: folder for checkpoints of the run; only the caller removes it.
      resume: continue the run whose checkpoint is there. Editors that do not train start again.
      on_step: progress callback.
      on_warning: called with one line for each edit whose key is weak, see `key_warnings` (default:
        a Python warning).

    Returns:
      The edited plug-in, not yet saved.

    Raises:
      InputError: no records; a record without a prompt or target, or longer than the model's
        learnt positions; too few unrelated rows; an unrelated row that is evaluated or an earlier
        edit; parameters that are not float32; fewer embeddings than the tokenizer has tokens; a
        checkpoint of another run; a `start` of another base; an editor that keeps its edits beside
        the model; the relation head of another model.
      RunError: the loss or its gradient stopped being finite.
    """
    begun = time.monotonic()
    head = find_head(model.content_hash) if head is None else head
    if editor is None:
        # Who gives rows for [WEIGHT], or their number, wants it trained; an adapter has none.
        usual = head is not None and unrelated is None and _usual_gate_rows(settings)
        apart = usual if start is None else start.info.in_adapters
        settings = settings.with_method(apart=apart)
        editor = editor_of(settings)
    _check(model, records, unrelated or (), editor, head)
    for text in key_warnings(records, unconcerned_texts(unrelated or ())):
        on_warning(text)
    if editor.apart:  # nothing earlier is trained again, and no gate
        replay, ungated, settings = 0.0, range(len(records)), _without_gate_rows(settings)
    # Rows of the embedding that are no tokens are never predicted.
    config = model.config.with_num_tokens(len(tokenizer.vocabulary))
    model = dataclasses.replace(model, config=config)
    kept = _continued(start, model, records, replay, editor)
    earlier = [start.records[i] for i in kept] if start else []
    replayed = _replayed(earlier, round(replay * len(records)), settings.seed)
    trained = [*records, *replayed]
    settings = settings.resolved(len(trained), apart=editor.apart)
    if unrelated is None:
        unrelated = drop_leaks(neutral_rows(), [*records, *evaluated, *earlier])[0]
        if head is not None and _usual_gate_rows(settings):
            settings = _without_gate_rows(settings)
        settings = _within(settings, len(unrelated), len(trained))
    else:
        _check_leaks(unrelated, [*records, *evaluated], earlier)
    seen = start.info.trained_texts if start else ()
    augmented = training_texts(
        model,
        tokenizer,
        trained,
        unrelated,
        settings,
        examples=examples,
        evaluated=evaluated,
        ungated=ungated,
        earlier=earlier,
        seen=seen,
        relations=head.bank_relations(head.reader(model, tokenizer), trained) if head else [],
    )
    recorded = recorded_settings(editor, settings)
    inputs = editor_inputs(
        trained,
        tokenizer,
        settings,
        augmented=augmented,
        ungated=ungated,
        texts=[row.prompt for row in unrelated] if texts is None else texts,
        gate=start.gate if start else None,
        on_step=on_step,
    )
    if checkpoint is not None:
        run = _run_hash(inputs, augmented, ungated, [recorded, editor.describe()], model, start)
        inputs = dataclasses.replace(inputs, checkpoint=Checkpoint(checkpoint, run, resume))
    config.check_length(max(len(row.tokens) for row in inputs.all_rows()))
    params = _over(mesh, (start or model).params)
    prepared = time.monotonic() - begun
    result, seconds = _timed(editor, params, config, inputs)
    made: dict[str, Any] = {
        "spent": prepared + seconds,
        "editor": EditorInfo(**editor.describe()),
        "recorded": recorded,
        "head": head,
    }
    if editor.apart:
        return finalize_adapter(
            model, tokenizer, result, records, augmented, start=start, kept=kept, **made
        )
    return finalize_artifact(
        model,
        tokenizer,
        _trained(result, config, start),
        [*records, *earlier],
        augmented,
        settings,
        ungated=ungated,
        edited_before=len(earlier),
        seen=seen,
        **made,
    )


def earlier_edits(start: EditedPlugin, records: Sequence[EditRecord]) -> list[EditRecord]:
    """The edits of an earlier stage, without those whose prompt is also in `records`."""
    return [start.records[i] for i in _kept(start, records)]


def parameter_hash(tree: Any) -> str:
    """SHA-256 over every array of a pytree, in the tree's order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = to_host(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_head(head: LearntHead | None, model: LoadedModel, editor: Editor) -> None:
    """Refuse the relation head of another model, and none where an adapter needs one."""
    if head is None and editor.apart:
        raise InputError(
            f"{model.name}: an adapter needs the gate fact, and no relation head is known for this "
            "model; learn one (`onceedit gate-train`), or choose the method last-n-layers"
        )
    if head is not None and head.base_hash != model.content_hash:
        raise InputError(
            f"head: the relation head of another model, whose hash is {head.base_hash[:12]}; "
            f"expected {model.name}, {model.content_hash[:12]}: learn one for it "
            "(`onceedit gate-train`)"
        )


def _check(
    model: LoadedModel,
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow],
    editor: Editor,
    head: LearntHead | None,
) -> None:
    """Refuse inputs from which nothing can be learnt, and editors that do not fit."""
    if not records:
        raise InputError("no edits given: expected at least one record with prompt and target")
    for i, record in enumerate(records):
        for name in ("prompt", "target"):
            if not getattr(record, name).strip():
                raise InputError(f"edit {i + 1} of {len(records)}: its {name} is empty")
    for i, row in enumerate(unrelated):
        if not strip_nq(row.prompt).strip():
            raise InputError(f"unrelated row {i + 1} of {len(unrelated)}: its prompt is empty")
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(model.params)}
    if dtypes != {"float32"}:
        # At a rate of 1e-4, shorter floats round most steps away.
        raise InputError(
            f"{model.name}: parameters of {', '.join(sorted(dtypes))}; editing needs float32: load "
            'the plug-in with dtype="float32"'
        )
    if editor.read is not None:
        raise InputError(
            f"editor {editor.name!r} keeps its edits in a memory beside the model, and an edited "
            "plug-in holds parameters alone: use an editor that changes parameters, or edit one "
            "model by itself with `editing.editor.run_editor`"
        )
    _check_head(head, model, editor)


def _continued(
    start: EditedPlugin | None,
    model: LoadedModel,
    records: Sequence[EditRecord],
    replay: float,
    editor: Editor,
) -> list[int]:
    """The places of the earlier edits that stay, after a check that `start` fits."""
    if not 0 <= replay <= 1000:
        raise InputError(f"replay={replay}: expected 0 to 1000 earlier edits for each new one")
    if start is None:
        return []
    if start.base_hash != model.content_hash:
        raise InputError(
            f"start: an edited {start.name} whose base has hash {start.base_hash[:12]}; expected "
            f"{model.name}, {model.content_hash[:12]}: continue from a plug-in of the same base"
        )
    if start.info.in_adapters != editor.apart:
        there = "adapters beside the weights" if start.info.in_adapters else "the weights"
        raise InputError(
            f"start: its edits are in {there}, and the method {editor.name} does not go with them; "
            "choose the method that it was edited with, or edit the model anew"
        )
    return _kept(start, records)


def _kept(start: EditedPlugin, records: Sequence[EditRecord]) -> list[int]:
    prompts = {normalise(record.prompt) for record in records}
    edits = start.info.edits
    return [i for i, entry in enumerate(edits) if normalise(entry.prompt) not in prompts]


def _usual_gate_rows(settings: EditSettings) -> bool:
    """Whether the user left the number of rows for [WEIGHT] as it is."""
    usual = EditSettings()
    return (settings.unrelated_ratio, settings.swapped_ratio, settings.varied_ratio) == (
        usual.unrelated_ratio,
        usual.swapped_ratio,
        usual.varied_ratio,
    )


def _without_gate_rows(settings: EditSettings) -> EditSettings:
    """Settings without rows for [WEIGHT]: the gate `fact` takes its place, and learns nothing."""
    return dataclasses.replace(settings, unrelated_ratio=0.0, swapped_ratio=0.0, varied_ratio=0.0)


def _within(settings: EditSettings, available: int, edits: int) -> EditSettings:
    """Settings that need no more unrelated rows than there are, in the same proportion."""
    trained, held_back = unrelated_counts(settings, edits)
    if trained + held_back <= available:
        return settings
    share = available / (trained + held_back)
    return dataclasses.replace(
        settings,
        unrelated_ratio=int(trained * share) / edits,
        held_back=int(held_back * share) / edits,
    )


def _check_leaks(
    unrelated: Sequence[UnrelatedRow],
    evaluated: Sequence[EditRecord],
    earlier: Sequence[EditRecord],
) -> None:
    """Refuse unrelated rows that are evaluated, or edits of an earlier stage.

    Raises:
      InputError: naming the first such row.
    """
    check_leaks(unrelated, evaluated)
    if leaked := drop_leaks(unrelated, earlier)[1]:
        raise InputError(
            f"{len(leaked)} of {len(unrelated)} unrelated rows are edits of the plug-in to "
            f"continue from, and training on them would undo these edits: "
            f"{leaked[0].prompt[:70]!r}. Remove them from the unrelated file, or pass --drop-leaks "
            "to leave them out"
        )


def _replayed(earlier: Sequence[EditRecord], count: int, seed: int) -> list[EditRecord]:
    rng = np.random.default_rng([seed, 4])
    chosen = rng.permutation(len(earlier))[:count].tolist()
    return [earlier[i] for i in sorted(chosen)]


def _run_hash(
    inputs: EditorInputs,
    augmented: TrainingTexts,
    ungated: Collection[int],
    settings: Any,
    model: LoadedModel,
    start: EditedPlugin | None,
) -> str:
    """A hash of everything that the run depends on."""
    return fingerprint(
        [[record.prompt, record.target, record.subject] for record in inputs.records],
        [augmented.unrelated, augmented.held_back],
        sorted({digest(text) for text in augmented.all()}),
        sorted(ungated),
        settings,
        model.content_hash,
        parameter_hash([start.params, start.gate]) if start else None,
    )


def _over(mesh: Mesh | None, params: Params) -> Params:
    """Parameters laid over the mesh (default: all devices of this host)."""
    mesh = mesh or data_mesh()
    if mesh.size > 1 or jax.local_device_count() > 1:
        params = lay(params, param_shardings(mesh, params))
    return params


def _timed(
    editor: Editor, params: Params, config: ModelConfig, inputs: EditorInputs
) -> tuple[EditorResult, float]:
    """The editor's result, checked, and the seconds that it took."""
    begun = time.monotonic()
    result = run_editor(editor, params, config, inputs)
    for leaf in jax.tree.leaves(result.params):
        leaf.block_until_ready()
    seconds = time.monotonic() - begun
    shapes, expected = (
        jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
        for tree in (result.params, params)
    )
    if shapes != expected:
        raise InputError(
            f"editor {editor.name!r}: its result has parameters of another structure, shape or "
            "dtype than the model; expected those of the model, in canonical form "
            "(`models.layout.stack_layers`)"
        )
    return result, seconds if result.seconds is None else result.seconds


def _trained(result: EditorResult, config: ModelConfig, start: EditedPlugin | None) -> Trained:
    """The result with a row for [WEIGHT]: the editor's own, else the one there was."""
    gate = result.gate or (start.gate if start else init_gate(config.hidden_size))
    return Trained(result.params, gate, [dict(entry) for entry in result.history])
