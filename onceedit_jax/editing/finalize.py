"""From trained parameters to an artifact: its gates, their thresholds, its record of the edit."""

import dataclasses
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import EditRecord, contradicting
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import (
    BaseInfo,
    EditEntry,
    EditInfo,
    EditMetrics,
    EditorInfo,
    Operation,
    RelationInfo,
    RuleInfo,
    UnrelatedInfo,
    now,
)
from onceedit_jax.editing.augmentation import TrainingTexts
from onceedit_jax.editing.gate_features import PromptReader, gate_rows
from onceedit_jax.editing.relation_heads import LearntHead
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainable import trainable_of
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.gates.fact import THRESHOLD, fact_with
from onceedit_jax.gates.fact_memory import both, memory, reaches
from onceedit_jax.gates.fitting import fit_gate
from onceedit_jax.gates.types import EDIT, FittedGate, GateFeatures
from onceedit_jax.gates.weight_token import alpha, token
from onceedit_jax.models.layout import lower_part
from onceedit_jax.models.parameters import input_embeddings
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.storage.versions import versions
from onceedit_jax.text.tokenizer import Tokenizer

RULE = "draft"  # the default fusion rule of an artifact


def finalize_artifact(
    model: LoadedModel,
    tokenizer: Tokenizer,
    trained: Trained,
    records: Sequence[EditRecord],
    texts: TrainingTexts,
    settings: EditSettings,
    *,
    spent: float,
    editor: EditorInfo | None = None,
    recorded: dict[str, Any] | None = None,
    ungated: Collection[int] = (),
    edited_before: int = 0,
    seen: Collection[str] = (),
    head: LearntHead | None = None,
) -> EditedPlugin:
    """Make an edited plug-in of parameters that hold the edits, however they were edited.

    The gates are fitted on the edits, and calibrated on unrelated rows that were not trained on.

    Args:
      model: the base plug-in.
      tokenizer: its tokenizer.
      trained: the edited parameters, and [WEIGHT]'s row (`token.init_gate` where none was trained:
        the memory then decides alone).
      records: all edits that the parameters hold.
      texts: what was trained on, and what was held back.
      settings: of the editing stage.
      spent: seconds of editing so far.
      editor: the editing method (default: the one that `settings` names).
      recorded: the settings as `edit.json` records them (default: `settings`).
      ungated: positions of edits that the gate was not taught.
      edited_before: how many of the edits an earlier stage made.
      seen: digests of the texts that earlier stages trained on.
      head: the base model's relation head; without one there is no gate `fact`.

    Returns:
      The edited plug-in, not yet saved.
    """
    begun, time_now = time.monotonic(), now()
    reader = PromptReader(
        trained.params, trained.gate, model.config, tokenizer, max_tokens=settings.max_tokens
    )
    features, labels = gate_rows(
        {"weight_logit"},
        records,
        reader,
        trained=texts.unrelated,
        held_back=texts.held_back,
        ungated=ungated,
    )
    gates = {gate.name: fit_gate(gate, features, labels) for gate in (token(), memory(), both())}
    info = EditInfo(
        base=base_info(model),
        edits=tuple(EditEntry.of(r, id=i + 1, added=time_now) for i, r in enumerate(records)),
        edited_before=edited_before,
        contradicting=len(contradicting(records)),
        unrelated=UnrelatedInfo(
            trained=len(texts.unrelated),
            held_back=len(texts.held_back),
            sha256=fingerprint(texts.unrelated, texts.held_back),
        ),
        trained_texts=tuple(sorted({*seen, *map(digest, texts.all())})),
        editor=editor or EditorInfo(trainable_of(settings).name, {}),
        settings=settings.as_dict() if recorded is None else recorded,
        rule=_rule_info(gates, with_head=head is not None),
        metrics=_metrics(trained, features, labels, gates["both"].state),
        history=tuple(trained.history),
        versions=versions(),
        relation=None if head is None else RelationInfo(head.layers, head.learnt),
    )
    relation = None if head is None else _relation(head, model, tokenizer, trained, records)
    seconds = spent + time.monotonic() - begun
    new = tuple(range(1, len(records) - edited_before + 1))
    info = dataclasses.replace(
        info,
        metrics=dataclasses.replace(info.metrics, seconds=seconds),
        operations=(Operation.just_done("edit", new, seconds),),
    )
    return EditedPlugin(
        trained.params,
        trained.gate,
        {name: gates["both"].state[name] for name in ("words", "weights")},
        input_embeddings(model.params),
        model.config,
        tokenizer,
        info,
        relation,
    )


def base_info(model: LoadedModel) -> BaseInfo:
    """What an artifact says of the model that was edited."""
    return BaseInfo(
        model.name, model.content_hash, model.hf_config, model.config.to_dict(), model.spec
    )


def _relation(
    head: LearntHead,
    model: LoadedModel,
    tokenizer: Tokenizer,
    trained: Trained,
    records: Sequence[EditRecord],
) -> dict[str, Any]:
    """The state of the gate `fact`, with the base's lower layers where the edit changed them."""
    relations = head.reader(model, tokenizer, records)
    reader = PromptReader(trained.params, trained.gate, model.config, tokenizer, relations)
    state = fit_gate(fact_with(head.head), *gate_rows({"relation"}, records, reader)).state
    lower = relations.params
    edited, _ = lower_part(trained.params, model.config, head.layers)
    unchanged = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), lower, edited)
    if not all(jax.tree.leaves(unchanged)):
        # The embeddings of tokens are stored in any case. The model itself shall not be held.
        positions = {key: leaf for key, leaf in lower["embed"].items() if key != "tokens"}
        state["base"] = jax.tree.map(jnp.copy, {**lower, "embed": positions})
    return dict(state)


def _rule_info(gates: Mapping[str, FittedGate], *, with_head: bool) -> RuleInfo:
    """The default rule, and what was calibrated of the gates."""
    state = gates["both"].state
    own = {"fact": THRESHOLD} if with_head else {}
    return RuleInfo(
        fusion=RULE,
        alpha_thresholds={name: gate.threshold for name, gate in gates.items()} | own,
        trust_thresholds={
            name: gate.trust_threshold
            for name, gate in gates.items()
            if gate.trust_threshold is not None
        },
        reach_threshold=_shortest(state["threshold"]),
        reach_evidence=_shortest(state["evidence"]),
    )


def _metrics(
    trained: Trained, features: GateFeatures, labels: Int[np.ndarray, "batch"], state: Any
) -> EditMetrics:
    """What the edit reached on its own rows; the seconds are filled in at the end."""
    assert features.held_out is not None
    weights = np.asarray(alpha(jnp.asarray(features.weight_logit)))
    last = trained.history[-1] if trained.history else {}
    return EditMetrics(
        epochs=len(trained.history),
        seconds=0.0,
        loss=last.get("loss"),
        reliability=last.get("reliability"),
        gate_accuracy=last.get("gate_accuracy"),
        alpha_edits=_spread(weights[labels == EDIT]),
        alpha_held_back=_spread(weights[features.held_out]),
        reach_held_back=_spread(reaches(state, np.asarray(features.words)[features.held_out])),
    )


def _shortest(value: Any) -> float:
    """A float32 as the shortest decimal number that gives it back."""
    return float(str(np.float32(value)))


def _spread(values: Float[np.ndarray, "batch"]) -> dict[str, float]:
    if len(values) == 0:
        return {}
    return {
        "min": float(np.min(values)),
        "mean": float(np.mean(values)),
        "max": float(np.max(values)),
    }
