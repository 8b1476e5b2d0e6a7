"""Edit once: from records and unrelated rows to an edited plug-in."""

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.leaks import check_leaks, digest
from onceedit_jax.data.records import EditRecord, UnrelatedRow, contradicting
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.batches import TrainingRow, edit_row, gate_row
from onceedit_jax.editing.calibration import (
    calibrate_threshold,
    calibrate_trust,
    reach_evidence,
    token_logits,
)
from onceedit_jax.editing.scope import reach_threshold, reaches, scope_memory
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.texts import training_texts
from onceedit_jax.editing.trainer import Progress, train
from onceedit_jax.errors import InputError
from onceedit_jax.gate import GateKind, alpha, gated
from onceedit_jax.models.decoder import input_embeddings
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.versions import versions


def edit(
    model: LoadedModel,
    tokenizer: Tokenizer,
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow],
    settings: EditSettings = EditSettings(),  # noqa: B008 (frozen)
    *,
    examples: Sequence[EditRecord] = (),
    evaluated: Sequence[EditRecord] = (),
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
      checkpoint: folder for checkpoints of the run, removed by nobody but the caller.
      resume: continue the run whose checkpoint is there.
      on_step: progress callback.

    Returns:
      The edited plug-in, not yet saved.

    Raises:
      InputError: no records, too few unrelated rows, a row that is also evaluated, or a
        checkpoint of another run.
      RunError: the loss stopped being finite.
    """
    if not records:
        raise InputError("no edits given: expected at least one record with prompt and target")
    check_leaks(unrelated, [*records, *evaluated])
    texts = training_texts(
        model, tokenizer, records, unrelated, settings, examples=examples, evaluated=evaluated
    )
    limit = settings.max_tokens
    rows = [edit_row(record, tokenizer, max_tokens=limit) for record in records]
    sides = ((texts.varied, True), (texts.unrelated, False))
    rows += [
        gate_row(prompt, tokenizer, related=related, max_tokens=limit)
        for prompts, related in sides
        for prompt in prompts
    ]
    pools = [
        _fitting([replace(records[i], prompt=prompt) for prompt in pool], tokenizer, limit)
        or [rows[i]]
        for i, pool in texts.paraphrases
    ]
    edits = [{"prompt": r.prompt, "target": r.target, "subject": r.subject} for r in records]
    made = sorted({digest(text) for text in texts.all()})
    unrelated_hash = fingerprint(texts.unrelated, texts.held_back)
    trained = train(
        model.params,
        model.config,
        rows,
        settings,
        pools=pools,
        checkpoint=checkpoint,
        run_fingerprint=fingerprint(
            edits, unrelated_hash, made, settings.as_dict(), model.content_hash
        ),
        resume=resume,
        on_step=on_step,
    )
    # The rule is fixed here, on the edits and on unrelated rows that were not trained on.
    prompts = [record.prompt for record in records] + texts.held_back
    encoded = [tokenizer.encode(prompt)[:limit] for prompt in prompts]
    logits = jnp.asarray(token_logits(trained.params, trained.gate, model.config, encoded))
    memory = scope_memory(records, texts.unrelated)
    reached = reaches(memory, prompts)
    reach = reach_threshold(reached[len(records) :])
    near = reached >= reach
    evidence = reach_evidence(near[: len(records)], near[len(records) :])
    thresholds: dict[GateKind, float] = {}
    trusted: dict[GateKind, float] = {}
    kinds: tuple[GateKind, ...] = ("token", "memory", "both")
    for kind in kinds:
        alphas = np.asarray(gated(kind, logits, jnp.asarray(near), evidence))
        split = alphas[: len(records)], alphas[len(records) :]
        thresholds[kind], trusted[kind] = calibrate_threshold(*split), calibrate_trust(*split)
    weights = np.asarray(alpha(logits))
    last = trained.history[-1]
    info: dict[str, Any] = {
        "base": {
            "name": model.name,
            "content_hash": model.content_hash,
            "hf_config": model.hf_config,
            "config": model.config.to_dict(),
        },
        "edits": edits,
        "contradicting": len(contradicting(records)),
        "unrelated": {
            "trained": len(texts.unrelated),
            "held_back": len(texts.held_back),
            "sha256": unrelated_hash,
        },
        "trained_texts": made,
        "settings": settings.as_dict(),
        "rule": {
            "fusion": "draft",
            "alpha_thresholds": thresholds,
            "trust_thresholds": trusted,
            "reach_threshold": reach,
            "reach_evidence": evidence,
        },
        "metrics": {
            "epochs": len(trained.history),
            "loss": last["loss"],
            "reliability": last["reliability"],
            "gate_accuracy": last["gate_accuracy"],
            "alpha_edits": _spread(weights[: len(records)]),
            "alpha_held_back": _spread(weights[len(records) :]),
            "reach_held_back": _spread(reached[len(records) :]),
        },
        "history": trained.history,
        "versions": versions(),
    }
    return EditedPlugin(
        trained.params,
        trained.gate,
        memory,
        input_embeddings(model.params),
        model.config,
        tokenizer,
        info,
    )


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
        array = np.asarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _spread(alphas: Any) -> dict[str, float]:
    if len(alphas) == 0:
        return {}
    return {
        "min": float(np.min(alphas)),
        "mean": float(np.mean(alphas)),
        "max": float(np.max(alphas)),
    }
