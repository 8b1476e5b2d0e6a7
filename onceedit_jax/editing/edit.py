"""Edit once: from records and unrelated rows to an edited plug-in."""

import hashlib
import itertools
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from onceedit_jax.data.leakage import check_leaks, digest, drop_leaks
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, UnrelatedRow, strip_nq
from onceedit_jax.distributed.mesh import data_mesh, lay, to_host
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.augmentation import training_texts
from onceedit_jax.editing.batches import TrainingRow, edit_row, gate_row
from onceedit_jax.editing.finalize import finalize_artifact
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainer import Progress, train
from onceedit_jax.errors import InputError
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer


def edit(
    model: LoadedModel,
    tokenizer: Tokenizer,
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow],
    settings: EditSettings = EditSettings(),  # noqa: B008 (frozen)
    *,
    examples: Sequence[EditRecord] = (),
    evaluated: Sequence[EditRecord] = (),
    start: EditedPlugin | None = None,
    replay: float = 1.0,
    ungated: Collection[int] = (),
    mesh: Mesh | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> EditedPlugin:
    """Teach a plug-in all records at once, and its gate to tell them from everything else.

    Args:
      model: the base plug-in.
      tokenizer: its tokenizer.
      records: the edits; only prompt, target and subject are trained on.
      unrelated: rows for the gate's other side; `settings` say how many are trained on and how
        many are held back to fix the threshold.
      settings: every choice of the editing stage.
      examples: records, not edits, whose rephrases show how questions may be put otherwise; a
        training split of the edits' own kind is best.
      evaluated: further records whose questions may not be trained on.
      start: an edited plug-in of the same base to go on from. Its edits stay in scope and are
        replayed, but for those whose prompt one of `records` asks again.
      replay: earlier edits that are trained again, for each new one.
      ungated: positions of records whose answers are learnt while the gate is not told of them.
      mesh: how devices share the work (default: all of them the rows of a batch).
      checkpoint: folder for checkpoints of the run, removed by nobody but the caller.
      resume: continue the run whose checkpoint is there.
      on_step: progress callback.

    Returns:
      The edited plug-in, not yet saved.

    Raises:
      InputError: no records, one without a prompt or target or longer than the model's learnt
        positions, too few unrelated rows, a row that is also evaluated or an earlier edit's, a
        model whose parameters are not float32 or that has fewer rows than the tokenizer tokens, a
        checkpoint of another run, or a `start` of another base.
      RunError: the loss or its gradient stopped being finite.
    """
    begun = time.monotonic()
    _check(model, records, unrelated)
    # Rows of the embedding that are no tokens are never predicted.
    config = model.config.with_num_tokens(len(tokenizer.vocabulary))
    model = replace(model, config=config)
    if replay < 0:
        raise InputError(f"replay={replay}: expected 0 or more earlier edits for each new one")
    if start is not None and start.base_hash != model.content_hash:
        raise InputError(
            f"start: an edited {start.name} whose base has hash {start.base_hash[:12]}; expected "
            f"{model.name}, {model.content_hash[:12]}: go on from a plug-in of the same base"
        )
    earlier = earlier_edits(start, records) if start else []
    check_leaks(unrelated, [*records, *evaluated])
    if asked := drop_leaks(unrelated, earlier)[1]:
        raise InputError(
            f"{len(asked)} of {len(unrelated)} unrelated rows are edits that the plug-in to go on "
            f"from holds, and would be unlearnt: {asked[0].prompt[:70]!r}. Remove them from the "
            "unrelated file, or pass --drop-leaks to leave them out"
        )
    present = [*records, *_replayed(earlier, round(replay * len(records)), settings.seed)]
    seen = start.info.trained_texts if start else ()
    texts = training_texts(
        model,
        tokenizer,
        present,
        unrelated,
        settings,
        examples=examples,
        evaluated=evaluated,
        ungated=ungated,
        earlier=earlier,
        seen=seen,
    )
    limit = settings.max_tokens
    rows = [edit_row(record, tokenizer, max_tokens=limit) for record in present]
    pools = [
        _fitting([replace(present[i], prompt=prompt) for prompt in pool], tokenizer, limit)
        or [rows[i]]
        for i, pool in texts.paraphrases
    ]
    for i in ungated:
        rows[i] = replace(rows[i], related=None)
    for (i, _), pool in zip(texts.paraphrases, pools, strict=True):
        if i in ungated:
            pool[:] = [replace(row, related=None) for row in pool]
    sides = ((texts.varied, True), (texts.unrelated, False))
    rows += [
        gate_row(prompt, tokenizer, related=related, max_tokens=limit)
        for prompts, related in sides
        for prompt in prompts
    ]
    config.check_length(max(len(row.tokens) for row in itertools.chain(rows, *pools)))
    params = (start or model).params
    mesh = mesh or data_mesh()
    if mesh.size > 1 or jax.local_device_count() > 1:
        params = lay(params, param_shardings(mesh, params))
    prepared = time.monotonic() - begun
    trained = train(
        params,
        config,
        rows,
        settings,
        gate=start.gate if start else None,
        pools=pools,
        checkpoint=checkpoint,
        run_fingerprint=fingerprint(
            [[r.prompt, r.target, r.subject] for r in present],
            [texts.unrelated, texts.held_back],
            sorted({digest(text) for text in texts.all()}),
            sorted(ungated),
            settings.as_dict(),
            model.content_hash,
            parameter_hash([start.params, start.gate]) if start else None,
        ),
        resume=resume,
        on_step=on_step,
    )
    return finalize_artifact(
        model,
        tokenizer,
        trained,
        [*records, *earlier],
        texts,
        settings,
        # Epochs tell their own time: some may have been an earlier run's that was cut.
        spent=prepared + sum(entry["seconds"] for entry in trained.history),
        ungated=ungated,
        edited_before=len(earlier),
        seen=seen,
    )


def _check(
    model: LoadedModel, records: Sequence[EditRecord], unrelated: Sequence[UnrelatedRow]
) -> None:
    """Refuse what nothing can be learnt from."""
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
        # At a rate of 1e-4 most steps are lost in the rounding of shorter floats.
        raise InputError(
            f"{model.name}: parameters of {', '.join(sorted(dtypes))}; editing needs float32: load "
            'the plug-in with dtype="float32"'
        )


def earlier_edits(start: EditedPlugin, records: Sequence[EditRecord]) -> list[EditRecord]:
    """The edits of an earlier stage that none of the new ones asks again."""
    asked = {normalise(record.prompt) for record in records}
    return [
        EditRecord(entry.prompt, entry.target, subject=entry.subject, index=i)
        for i, entry in enumerate(start.info.edits)
        if normalise(entry.prompt) not in asked
    ]


def _replayed(earlier: Sequence[EditRecord], count: int, seed: int) -> list[EditRecord]:
    rng = np.random.default_rng([seed, 4])
    chosen = rng.permutation(len(earlier))[:count].tolist()
    return [earlier[i] for i in sorted(chosen)]


def _fitting(
    records: Sequence[EditRecord], tokenizer: Tokenizer, max_tokens: int
) -> list[TrainingRow]:
    """Rows of wordings that were made, without those that have become too long."""
    made = (edit_row(record, tokenizer, max_tokens=sys.maxsize) for record in records)
    return [row for row in made if len(row.tokens) <= max_tokens]


def parameter_hash(tree: Any) -> str:
    """SHA-256 over every array of a pytree, in the tree's order."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        array = to_host(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
