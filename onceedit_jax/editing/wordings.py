"""What an edit is trained on beside its prompt: other wordings, and forms that people write in."""

from collections.abc import Sequence

import numpy as np

from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.data.relations import ANSWER, SUBJECT, Relation
from onceedit_jax.editing.paraphrases import Templates, paraphrases
from onceedit_jax.text.asking import drawn_form, sentence_forms, short_forms

# Share of the formed questions that ask for a whole sentence. With half of it an adapter answered
# one such question in three by the bare answer (development facts).
WHOLE_SENTENCE = 0.4


def other_wordings(
    record: EditRecord, relation: Relation | None, templates: Templates
) -> list[str]:
    """The edit's question in other words: by its relation, and by templates of examples.

    Args:
      record: the edit.
      relation: its relation in the bank, if it is known.
      templates: from `learn_templates`.
    """
    texts = paraphrases(record, templates)
    if relation is not None and record.subject:
        texts += [wording.replace(SUBJECT, record.subject) for wording in relation.wordings]
    return [text for text in dict.fromkeys(texts) if text != record.prompt]


def formed(
    wording: str,
    record: EditRecord,
    relation: Relation | None,
    rng: np.random.Generator,
    *,
    share: float,
) -> Pair:
    """A wording in a form drawn at random, with the answer that this form asks for.

    Args:
      wording: a question, a request or an opening.
      record: the edit.
      relation: its relation in the bank, if it is known: a whole sentence is worded by it.
      rng: source of the choice.
      share: of the wordings that get another form; half of them change signs and case only.
    """
    if rng.random() >= share:
        return Pair(wording, record.target)
    if not wording.endswith("?"):
        return Pair(_chosen([wording.lower(), wording.rstrip(".")], rng), record.target)
    sentence = _sentence(record, relation)
    if sentence and rng.random() < WHOLE_SENTENCE:
        return Pair(_chosen(sentence_forms(wording), rng), sentence)
    return Pair(drawn_form(short_forms(wording), rng), record.target)


def _sentence(record: EditRecord, relation: Relation | None) -> str | None:
    if relation is None or not record.subject:
        return None
    return relation.sentence.replace(SUBJECT, record.subject).replace(ANSWER, record.target)


def _chosen(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]
