"""Every choice of the editing stage, in one frozen record with a default for each."""

import dataclasses
import hashlib
import json
from typing import Any, Literal, NamedTuple

from onceedit_jax.checks import check_settings
from onceedit_jax.models.dtypes import ComputeDtype

Method = Literal["full", "lora", "last-n-layers", "adapter"]


class Usual(NamedTuple):
    """What `EditSettings` leaves open, for one kind of training.

    Attributes:
      learning_rate: peak learning rate.
      batch_size: rows per step.
    """

    learning_rate: float
    batch_size: int


# Chosen on facts for development.
ADAPTER, WEIGHTS = Usual(4e-3, 8), Usual(2e-4, 16)
MOST_PASSES, FEWEST_PASSES = 20.0, 4.0  # over the rows of ten edits or fewer, and of many


@dataclasses.dataclass(frozen=True)
class EditSettings:
    """How the plug-in is edited. The paper gives gate_weight; the rest is ours.

    The paper trains all parameters, at a rate of 1e-4.

    Attributes:
      learning_rate: peak learning rate. None: 4e-3 for an adapter, 2e-4 for weights.
      gate_learning_rate: peak learning rate of [WEIGHT]'s row, which starts from zero; the rest of
        the model needs only small changes.
      gate_weight: lambda of `L = L_gen + lambda * L_weight` (paper: 0.8).
      batch_size: rows per step, edits and unrelated rows mixed. None: 8 for an adapter, 16 for
        weights.
      epochs: most passes over the rows; `early_stop` can end the training earlier. None: by the
        number of edits, see `resolved`.
      optimizer: an optax optimizer that takes a learning rate ("adamw", "adam", "sgd", "lion").
      weight_decay: decoupled weight decay, if the optimizer has it.
      schedule: "constant", or "linear" or "cosine" decay to zero over all epochs.
      warmup_steps: linear warm-up from zero before the schedule.
      clip_norm: global-norm gradient clipping; 0 turns it off.
      unrelated_ratio: unrelated rows that are trained on, per edit.
      swapped_ratio: negatives in the edits' own form, per edit: an edit's prompt with another
        subject in place of its own (needs records with a subject).
      disguised: share of the unrelated rows that get the form of the edits (capital, closing
        sign), so that the gate cannot separate rows by their form.
      varied_ratio: positives for the gate alone, per edit: its prompt with its words in another
        order and the subject whole, so that the gate reads what a prompt is about.
      paraphrase_ratio: rows per epoch and edit that ask for its answer in other words or another
        form, drawn anew every epoch. The wordings are those of the edit's relation in the bank, if
        the relation head knows it, and those by the templates of the examples.
      form_share: share of these rows that are put in another form: without a mark, in lower case,
        with a greeting, as "Q: ... A:", and so on.
      context_share: share of these rows that have a sentence about something else before them; as
        many of the unrelated rows have one too.
      held_back: unrelated rows that are not trained on, per edit, and the same share of the swapped
        prompts; they fix the gate's threshold.
      method: what is trained: "adapter", "full", "lora" or "last-n-layers". None: an adapter, or
        the last layers where the model's relation head is not known or unrelated rows are given; a
        plug-in that is continued keeps its kind. An editor that is passed to `edit` comes before
        it.
      lora_rank: rank of the LoRA factors.
      lora_alpha: LoRA scale; the update is `lora_alpha / lora_rank * A B`.
      adapter_rank: rank of the factors of "adapter".
      last_layers: layers trained by "last-n-layers" and "adapter". None: two fifths of the model's,
        and a quarter for an adapter.
      early_stop: stop after this many epochs in a row with every edit predicted whole and the gate
        right on every row; 0 never stops early.
      max_tokens: longest row; unrelated texts are cut there, longer edits are refused.
      training_dtype: type of the operands of matrix products; sums, gradients and what is trained
        are float32. None: bfloat16 for an adapter on a CPU that multiplies it by instruction
        and on other devices, else float32.
      seed: the only source of randomness (row order, LoRA factors, choice of unrelated rows).
    """

    learning_rate: float | None = None
    gate_learning_rate: float = 3e-3
    gate_weight: float = 0.8
    batch_size: int | None = None
    epochs: int | None = None
    optimizer: Literal["adamw", "adam", "sgd", "lion"] = "adamw"
    weight_decay: float = 0.01
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: int = 0
    clip_norm: float = 1.0
    unrelated_ratio: float = 1.0
    swapped_ratio: float = 2.0
    disguised: float = 0.5
    varied_ratio: float = 1.0
    paraphrase_ratio: float = 4.0
    form_share: float = 0.6
    context_share: float = 0.5
    held_back: float = 0.5
    method: Method | None = None
    lora_rank: int = 16
    lora_alpha: float = 32.0
    adapter_rank: int = 8
    last_layers: int | None = None
    early_stop: int = 2
    max_tokens: int = 256
    training_dtype: ComputeDtype | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(
            self,
            above_zero=(
                "learning_rate", "batch_size", "epochs", "lora_rank", "adapter_rank",
                "last_layers", "max_tokens",
            ),
            not_negative=(
                "gate_weight", "weight_decay", "warmup_steps", "clip_norm", "unrelated_ratio",
                "swapped_ratio", "disguised", "varied_ratio", "paraphrase_ratio", "form_share",
                "context_share",
                "held_back", "early_stop", "seed",
            ),
            at_most={
                **dict.fromkeys(
                    (
                        "unrelated_ratio", "swapped_ratio", "varied_ratio", "paraphrase_ratio",
                        "held_back",
                    ),
                    1000,
                ),
                "batch_size": 1 << 16, "epochs": 1_000_000, "max_tokens": 1 << 20,
            },
        )  # fmt: skip

    def with_method(self, *, apart: bool) -> "EditSettings":
        """The settings with a method: their own, or an adapter if edits can lie apart."""
        usual: Method = "adapter" if apart else "last-n-layers"
        return dataclasses.replace(self, method=self.method or usual)

    def resolved(self, edits: int, *, apart: bool | None = None) -> "EditSettings":
        """The settings with what is None chosen, for so many edits.

        Args:
          edits: how many are trained.
          apart: whether an adapter is trained (default: by `method`).
        """
        usual = ADAPTER if (self.method == "adapter" if apart is None else apart) else WEIGHTS
        # Many edits make more steps a pass, and share the forms of questions.
        passes = MOST_PASSES * (10 / max(edits, 1)) ** 0.4
        return dataclasses.replace(
            self,
            learning_rate=self.learning_rate or usual.learning_rate,
            batch_size=self.batch_size or usual.batch_size,
            epochs=self.epochs or round(min(MOST_PASSES, max(FEWEST_PASSES, passes))),
        )

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain JSON values."""
        return dataclasses.asdict(self)


def fingerprint(*parts: Any) -> str:
    """SHA-256 of JSON values; it must agree before an interrupted run can continue."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
