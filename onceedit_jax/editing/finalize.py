"""From trained parameters to an artifact: its scope memory, its rule, its account of itself."""

import time
from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import EditRecord, contradicting
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.augmentation import TrainingTexts
from onceedit_jax.editing.calibration import (
    calibrate_threshold,
    calibrate_trust,
    reach_evidence,
    token_logits,
)
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.gates.keys import reach_threshold, reaches, scope_memory
from onceedit_jax.gates.token import GateKind, alpha, gated
from onceedit_jax.models.decoder import input_embeddings
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage.versions import versions
from onceedit_jax.text.tokenizer import Tokenizer


def seal(
    model: LoadedModel,
    tokenizer: Tokenizer,
    trained: Trained,
    records: Sequence[EditRecord],
    texts: TrainingTexts,
    settings: EditSettings,
    *,
    spent: float,
    ungated: Collection[int] = (),
    edited_before: int = 0,
    seen: Collection[str] = (),
) -> EditedPlugin:
    """Make an edited plug-in of parameters that hold the edits, however they came to hold them.

    The thresholds and what being in reach is worth are fixed on the edits and on unrelated rows
    that were not trained on.

    Args:
      model: the base plug-in.
      tokenizer: its tokenizer.
      trained: the edited parameters and the gate (`gate.init_gate` where none was trained: the
        scope memory then decides alone).
      records: all edits that the parameters hold.
      texts: what was trained on, and what was held back.
      settings: of the editing stage, for the artifact's account of itself.
      spent: seconds of editing so far.
      ungated: positions of edits that the gate was not taught.
      edited_before: how many of the edits are an earlier stage's.
      seen: digests of the texts that earlier stages trained on.

    Returns:
      The edited plug-in, not yet saved.
    """
    begun = time.monotonic()
    known = [record.prompt for i, record in enumerate(records) if i not in frozenset(ungated)]
    prompts = known + texts.held_back
    encoded = [tokenizer.encode(prompt)[: settings.max_tokens] for prompt in prompts]
    logits = jnp.asarray(token_logits(trained.params, trained.gate, model.config, encoded))
    memory = scope_memory(records, texts.unrelated)
    reached = reaches(memory, prompts)
    reach = reach_threshold(reached[len(known) :])
    near = reached >= reach
    evidence = reach_evidence(near[: len(known)], near[len(known) :])
    thresholds: dict[GateKind, float] = {}
    trusted: dict[GateKind, float] = {}
    kinds: tuple[GateKind, ...] = ("token", "memory", "both")
    for kind in kinds:
        alphas = np.asarray(gated(kind, logits, jnp.asarray(near), evidence))
        split = alphas[: len(known)], alphas[len(known) :]
        thresholds[kind], trusted[kind] = calibrate_threshold(*split), calibrate_trust(*split)
    weights = np.asarray(alpha(logits))
    last = trained.history[-1] if trained.history else {}
    info: dict[str, Any] = {
        "base": {
            "name": model.name,
            "content_hash": model.content_hash,
            "hf_config": model.hf_config,
            "config": model.config.to_dict(),
        },
        "edits": [{"prompt": r.prompt, "target": r.target, "subject": r.subject} for r in records],
        "edited_before": edited_before,
        "contradicting": len(contradicting(records)),
        "unrelated": {
            "trained": len(texts.unrelated),
            "held_back": len(texts.held_back),
            "sha256": fingerprint(texts.unrelated, texts.held_back),
        },
        "trained_texts": sorted({*seen, *map(digest, texts.all())}),
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
            "seconds": spent + time.monotonic() - begun,
            "loss": last.get("loss"),
            "reliability": last.get("reliability"),
            "gate_accuracy": last.get("gate_accuracy"),
            "alpha_edits": _spread(weights[: len(known)]),
            "alpha_held_back": _spread(weights[len(known) :]),
            "reach_held_back": _spread(reached[len(known) :]),
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


def _spread(alphas: Any) -> dict[str, float]:
    if len(alphas) == 0:
        return {}
    return {
        "min": float(np.min(alphas)),
        "mean": float(np.mean(alphas)),
        "max": float(np.max(alphas)),
    }
