"""Chooses every text of an edit: what is trained on, what is held back, and nothing evaluated."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onceedit_jax.data.leakage import digest, evaluated_texts, without_evaluated
from onceedit_jax.data.records import EditRecord, UnrelatedRow
from onceedit_jax.editing.context_sentences import context_sentences
from onceedit_jax.editing.paraphrases import (
    Templates,
    after_sentences,
    in_edit_form,
    learn_templates,
    paraphrases,
    swapped_prompts,
    varied_prompts,
)
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer

CONTEXTS = 128  # sentences that paraphrases begin with, shared by all edits


@dataclass(frozen=True)
class TrainingTexts:
    """What is trained on beside the edits' own prompts, and what is held back.

    Attributes:
      paraphrases: the position of an edit, and other prompts of which one an epoch is trained with
        its answer.
      varied: prompts that are the edits' for the gate alone.
      unrelated: prompts that no edit concerns, for the gate's other side.
      held_back: others of these, not trained on: they fix the thresholds.
      bare: what stands in the first and third without a sentence before it.
    """

    paraphrases: list[tuple[int, list[str]]]
    varied: list[str]
    unrelated: list[str]
    held_back: list[str]
    bare: list[str]

    def all(self) -> list[str]:
        """Every text that is trained on, and what it is without a sentence before it."""
        return [
            *(text for _, pool in self.paraphrases for text in pool),
            *self.varied,
            *self.unrelated,
            *self.bare,
        ]


def training_texts(
    model: LoadedModel,
    tokenizer: Tokenizer,
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow],
    settings: EditSettings,
    *,
    examples: Sequence[EditRecord] = (),
    evaluated: Sequence[EditRecord] = (),
    ungated: Collection[int] = (),
    earlier: Sequence[EditRecord] = (),
    seen: Collection[str] = (),
) -> TrainingTexts:
    """All texts of an edit, by the settings' seed; none of them is a question that is evaluated.

    Args:
      model: the unedited plug-in: it writes the sentences that paraphrases begin with.
      tokenizer: its tokenizer.
      records: the edits.
      unrelated: rows for the gate's other side.
      settings: how many of each.
      examples: records whose rephrases show how a question may be put otherwise.
      evaluated: further records whose questions may not be trained on.
      ungated: positions of records that lend the gate no row, on either side.
      earlier: edits of earlier stages: no negative is made about their subjects.
      seen: digests of texts that an earlier stage trained on: none of them can be held back.

    Raises:
      InputError: if there are fewer unrelated rows than the settings ask for.
    """
    asked = evaluated_texts([*records, *evaluated])
    templates, left_out, known = learn_templates(examples), frozenset(ungated), frozenset(seen)
    gated = [record for i, record in enumerate(records) if i not in left_out]
    negatives, held_back = (
        without_evaluated(prompts, asked)
        for prompts in choose_unrelated(
            gated, unrelated, settings, templates=templates, earlier=earlier
        )
    )
    held_back = [text for text in held_back if digest(text) not in known]
    rng = np.random.default_rng([settings.seed, 2])
    varied = varied_prompts(gated, settings.varied_ratio, rng)
    rng = np.random.default_rng([settings.seed, 3])
    pools: list[tuple[int, list[str]]] = []
    bare, copies = list(negatives), round(settings.paraphrase_ratio)
    if templates and copies:
        share = settings.context_share
        # Negatives begin with other sentences as often as positives do: the gate learns no form.
        begun = share * copies / (1 + copies)
        sentences = context_sentences(model, tokenizer, CONTEXTS, rng) if share else []
        negatives = after_sentences(negatives, sentences, begun, rng)
        held_back = after_sentences(held_back, sentences, begun, rng)
        for i, record in enumerate(records):
            wordings = without_evaluated(paraphrases(record, templates), asked)
            drawn = rng.integers(1 + len(wordings), size=settings.epochs).tolist()
            wanted = [[record.prompt, *wordings][n] for n in drawn]
            bare += (text for text in wanted if text != record.prompt)
            for _ in range(copies):
                pools.append((i, after_sentences(wanted, sentences, share, rng)))
    return TrainingTexts(pools, without_evaluated(varied, asked), negatives, held_back, bare)


def choose_unrelated(
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow],
    settings: EditSettings,
    *,
    templates: Templates | None = None,
    earlier: Sequence[EditRecord] = (),
) -> tuple[list[str], list[str]]:
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
    total = count + round(count * kept / wanted if wanted else settings.swapped_ratio * kept)
    swapped = swapped_prompts(records, unrelated, total, rng, templates=templates, others=earlier)
    training, held_back = chosen[:wanted] + swapped[:count], chosen[wanted:] + swapped[count:]
    return [row.prompt for row in training], [row.prompt for row in held_back]
