"""Edit once: from records and unrelated rows to an edited plug-in."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.leaks import check_leaks
from onceedit_jax.data.records import EditRecord, UnrelatedRow, contradicting
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.batches import (
    edit_row,
    gate_row,
    in_edit_form,
    swapped_prompts,
    varied_prompts,
)
from onceedit_jax.editing.calibration import calibrate_threshold, calibrate_trust, token_alphas
from onceedit_jax.editing.scope import reach_threshold, reaches, scope_memory
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainer import Progress, train
from onceedit_jax.errors import InputError
from onceedit_jax.gate import GateKind, gated
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
      evaluated: further records whose questions no unrelated row may hold.
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
    training, held_back = choose_unrelated(records, unrelated, settings)
    rows = [edit_row(r, tokenizer, max_tokens=settings.max_tokens) for r in records]
    rng = np.random.default_rng([settings.seed, 2])
    varied = varied_prompts(records, settings.varied_ratio, rng)
    sides = [(prompt, True) for prompt in varied] + [(row.prompt, False) for row in training]
    rows += [
        gate_row(prompt, tokenizer, related=related, max_tokens=settings.max_tokens)
        for prompt, related in sides
    ]
    edits = [{"prompt": r.prompt, "target": r.target, "subject": r.subject} for r in records]
    unrelated_hash = fingerprint([u.prompt for u in training], [u.prompt for u in held_back])
    trained = train(
        model.params,
        model.config,
        rows,
        settings,
        checkpoint=checkpoint,
        run_fingerprint=fingerprint(edits, unrelated_hash, settings.as_dict(), model.content_hash),
        resume=resume,
        on_step=on_step,
    )
    # The rule is fixed here, on the edits and on unrelated rows that were not trained on.
    prompts = [record.prompt for record in records] + [row.prompt for row in held_back]
    encoded = [tokenizer.encode(prompt)[: settings.max_tokens] for prompt in prompts]
    weights = token_alphas(trained.params, trained.gate, model.config, encoded)
    memory = scope_memory(records, [row.prompt for row in training])
    reached = reaches(memory, prompts)
    reach = reach_threshold(reached[len(records) :])
    thresholds: dict[GateKind, float] = {}
    trusted: dict[GateKind, float] = {}
    kinds: tuple[GateKind, ...] = ("token", "memory", "both")
    for kind in kinds:
        alphas = np.asarray(gated(kind, jnp.asarray(weights), jnp.asarray(reached >= reach)))
        split = alphas[: len(records)], alphas[len(records) :]
        thresholds[kind], trusted[kind] = calibrate_threshold(*split), calibrate_trust(*split)
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
            "trained": len(training),
            "held_back": len(held_back),
            "sha256": unrelated_hash,
        },
        "settings": settings.as_dict(),
        "rule": {
            "fusion": "draft",
            "alpha_thresholds": thresholds,
            "trust_thresholds": trusted,
            "reach_threshold": reach,
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


def choose_unrelated(
    records: Sequence[EditRecord], unrelated: Sequence[UnrelatedRow], settings: EditSettings
) -> tuple[list[UnrelatedRow], list[UnrelatedRow]]:
    """Draw the unrelated rows that are trained on and those held back, by the settings' seed.

    Raises:
      InputError: if there are fewer rows than the settings ask for.
    """
    rng = np.random.default_rng([settings.seed, 1])
    wanted = round(settings.unrelated_ratio * len(records))
    kept = round(settings.held_back * len(records))
    if wanted + kept > len(unrelated):
        raise InputError(
            f"{len(unrelated)} unrelated rows for {len(records)} edits: unrelated_ratio="
            f"{settings.unrelated_ratio} and held_back={settings.held_back} ask for {wanted} + "
            f"{kept}; give more rows or lower the two"
        )
    order = rng.permutation(len(unrelated))
    chosen = [unrelated[i] for i in order[: wanted + kept]]
    disguised = rng.random(len(chosen)) < settings.disguised
    chosen = [
        in_edit_form(row, records) if plain else row
        for row, plain in zip(chosen, disguised, strict=True)
    ]
    # Swapped prompts are split as the rows are: those held back were never trained on.
    count = round(settings.swapped_ratio * len(records))
    swapped = swapped_prompts(records, unrelated, count + round(count * kept / max(wanted, 1)), rng)
    training = chosen[:wanted] + swapped[:count]
    return training, chosen[wanted:] + swapped[count:]


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
