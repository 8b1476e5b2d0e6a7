"""Chooses the texts of an edit: those trained on and those held back, none of them evaluated."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from onceedit_jax.data.leakage import digest, evaluated_texts, without_evaluated
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow
from onceedit_jax.data.relations import Relation
from onceedit_jax.editing.context_sentences import context_sentences
from onceedit_jax.editing.paraphrases import (
    Templates,
    after_sentences,
    in_edit_form,
    learn_templates,
    swapped_prompts,
    varied_prompts,
)
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.wordings import formed, other_wordings
from onceedit_jax.errors import InputError
from onceedit_jax.models.weights import LoadedModel
from onceedit_jax.text.tokenizer import Tokenizer

CONTEXTS = 128  # sentences to put before paraphrases, shared by all edits
OWN_WORDING = 1 / 3  # share of the rows in another form that keep the edit's own words


@dataclass(frozen=True)
class TrainingTexts:
    """Texts that are trained on, beside the edits' own prompts, and texts that are held back.

    Attributes:
      paraphrases: the position of an edit, and other prompts for it with their answers. Each epoch
        trains on one of them.
      varied: prompts about an edit that train the gate alone.
      unrelated: prompts that no edit is about; they train the gate alone.
      held_back: further such prompts that are not trained on; they fix the thresholds.
      bare: the texts of `paraphrases` and `unrelated` without a sentence before them.
    """

    paraphrases: list[tuple[int, list[Pair]]]
    varied: list[str]
    unrelated: list[str]
    held_back: list[str]
    bare: list[str]

    def all(self) -> list[str]:
        """Every text that is trained on, with and without a sentence before it."""
        return [
            *(pair.prompt for _, pool in self.paraphrases for pair in pool),
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
    relations: Sequence[Relation | None] = (),
) -> TrainingTexts:
    """Choose all texts of an edit by the settings' seed; no evaluated question is among them.

    Args:
      model: the unedited plug-in; it writes the sentences that go before paraphrases.
      tokenizer: its tokenizer.
      records: the edits.
      unrelated: texts that no edit is about.
      settings: how many of each.
      examples: records whose rephrases show how a question can be rephrased.
      evaluated: further records whose questions must not be trained on.
      ungated: positions of records that do not train the gate.
      earlier: edits of earlier stages; no negative is made about their subjects.
      seen: digests of texts that an earlier stage trained on; none of them is held back.
      relations: of each edit, its relation in the bank; None, or an empty list, if it is not known.

    Raises:
      InputError: there are fewer unrelated rows than the settings need.
    """
    questions = evaluated_texts([*records, *evaluated])
    templates, left_out, known = learn_templates(examples), frozenset(ungated), frozenset(seen)
    gated = [record for i, record in enumerate(records) if i not in left_out]
    negatives, held_back = (
        without_evaluated(prompts, questions)
        for prompts in choose_unrelated(
            gated, unrelated, settings, templates=templates, earlier=earlier
        )
    )
    held_back = [text for text in held_back if digest(text) not in known]
    rng = np.random.default_rng([settings.seed, 2])
    varied = varied_prompts(gated, settings.varied_ratio, rng)
    rng = np.random.default_rng([settings.seed, 3])
    pools: list[tuple[int, list[Pair]]] = []
    bare, copies = list(negatives), round(settings.paraphrase_ratio)
    if copies:
        share = settings.context_share
        # As many negatives as positives have a sentence before them: the gate must not learn this.
        preceded = share * copies / (1 + copies)
        sentences = context_sentences(model, tokenizer, CONTEXTS, rng) if share else []
        negatives = after_sentences(negatives, sentences, preceded, rng)
        held_back = after_sentences(held_back, sentences, preceded, rng)
        passes = settings.resolved(len(records)).epochs
        assert passes is not None
        for i, record in enumerate(records):
            relation = relations[i] if relations else None
            others = without_evaluated(other_wordings(record, relation, templates), questions)
            for _ in range(copies):
                wordings = _drawn(record.prompt, others, passes, rng)
                bare += (text for text in wordings if text != record.prompt)
                pools.append((i, _formed(wordings, record, relation, sentences, settings, rng)))
    return TrainingTexts(pools, without_evaluated(varied, questions), negatives, held_back, bare)


def _formed(
    wordings: Sequence[str],
    record: EditRecord,
    relation: Relation | None,
    sentences: Sequence[str],
    settings: EditSettings,
    rng: np.random.Generator,
) -> list[Pair]:
    """Wordings in forms drawn at random with their answers, some after a sentence."""
    pairs = [formed(text, record, relation, rng, share=settings.form_share) for text in wordings]
    prompts = [pair.prompt for pair in pairs]
    prompts = after_sentences(prompts, sentences, settings.context_share, rng)
    return [Pair(text, pair.target) for text, pair in zip(prompts, pairs, strict=True)]


def _drawn(prompt: str, others: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """Wordings drawn at random: the edit's own for a share of them, however many others there are.

    People put the question in the edit's own words more often than in any other.
    """
    if not others:
        return [prompt] * count
    own = (rng.random(count) < OWN_WORDING).tolist()
    drawn = rng.integers(len(others), size=count).tolist()
    return [prompt if is_own else others[n] for is_own, n in zip(own, drawn, strict=True)]


def unrelated_counts(settings: EditSettings, edits: int) -> tuple[int, int]:
    """How many unrelated rows so many edits need: to train on, and to hold back."""
    return round(settings.unrelated_ratio * edits), round(settings.held_back * edits)


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
      InputError: there are fewer rows than the settings need.
    """
    rng = np.random.default_rng([settings.seed, 1])
    wanted, reserved = unrelated_counts(settings, len(records))
    if wanted + reserved > len(unrelated):
        raise InputError(
            f"{len(unrelated)} unrelated rows for {len(records)} edits: unrelated_ratio="
            f"{settings.unrelated_ratio} and held_back={settings.held_back} need {wanted} + "
            f"{reserved}; give more rows or lower the two"
        )
    order = rng.permutation(len(unrelated))
    chosen = [unrelated[i] for i in order[: wanted + reserved]]
    disguised = rng.random(len(chosen)) < settings.disguised
    chosen = [
        in_edit_form(row, records) if plain else row
        for row, plain in zip(chosen, disguised, strict=True)
    ]
    # Swapped prompts are divided in the same proportion.
    count = round(settings.swapped_ratio * len(records))
    total = count + round(
        count * reserved / wanted if wanted else settings.swapped_ratio * reserved
    )
    swapped = swapped_prompts(records, unrelated, total, rng, templates=templates, others=earlier)
    training, held_back = chosen[:wanted] + swapped[:count], chosen[wanted:] + swapped[count:]
    return [row.prompt for row in training], [row.prompt for row in held_back]
