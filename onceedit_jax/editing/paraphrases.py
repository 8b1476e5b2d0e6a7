"""Texts made from the edits: paraphrases, and prompts of the same form about something else.

An edit is one prompt. The plug-in must also answer its paraphrases, and the gate must open for them
and for nothing else. Both learn from these texts what can change around a subject and what cannot.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, UnrelatedRow, strip_nq

_SLOT = "\0"  # stands for the subject in a template; in no text
_SENTENCE_END = re.compile(r"[.!?]\s+|\n+")
Templates = Mapping[str, Sequence[str]]


def learn_templates(examples: Sequence[EditRecord]) -> dict[str, list[str]]:
    """Templates of questions with the same meaning, from records with a prompt and a rephrase.

    Prompt and rephrase with the subject taken out are two templates of one question. A rephrase can
    begin with sentences about something else; only the sentence with the subject counts.

    Args:
      examples: records with subject and rephrase; others are passed over.

    Returns:
      For each template its alternatives, the most frequent first.
    """
    seen: dict[str, Counter[str]] = {}
    for record in examples:
        asked = _template(record.prompt, record)
        for rephrase in record.rephrases:
            again = _template(rephrase, record)
            if asked and again and asked != again:
                for one, other in ((asked, again), (again, asked)):
                    seen.setdefault(one, Counter())[other] += 1
    return {one: [other for other, _ in found.most_common()] for one, found in seen.items()}


def paraphrases(record: EditRecord, templates: Templates) -> list[str]:
    """The edit's prompt in other words; empty if its template is in no example."""
    own = _template(record.prompt, record)
    return [text.replace(_SLOT, str(record.subject)) for text in templates.get(own or "", ())]


def after_sentences(
    prompts: Sequence[str], sentences: Sequence[str], share: float, rng: np.random.Generator
) -> list[str]:
    """The prompts, with a sentence about something else before a share of them."""
    if not sentences:
        return list(prompts)
    chosen = rng.random(len(prompts)) < share
    drawn = rng.integers(len(sentences), size=len(prompts))
    return [
        f"{sentences[i]} {prompt}" if begun else prompt
        for prompt, begun, i in zip(prompts, chosen, drawn.tolist(), strict=True)
    ]


def varied_prompts(
    records: Sequence[EditRecord], ratio: float, rng: np.random.Generator
) -> list[str]:
    """Positives for the gate: edit prompts with their words in another order, the subject whole.

    They share the subject and the words of the relation with the edit and its paraphrases, but not
    the sentence. The capital and the closing sign stay: positives of another form than the edits'
    would open the gate to that form.
    """
    prompts = []
    for record in records:
        text = record.prompt.rstrip("?!.")
        ending = record.prompt[len(text) :]
        subject = record.subject if record.subject and record.subject in text else None
        words = (text.replace(subject, _SLOT) if subject else text).split()
        for _ in range(round(ratio)):
            shuffled = " ".join(words[j] for j in rng.permutation(len(words)).tolist())
            prompt = shuffled.replace(_SLOT, subject or "")
            prompts.append(prompt[:1].upper() + prompt[1:] + ending)
    return prompts


def swapped_prompts(
    records: Sequence[EditRecord],
    unrelated: Sequence[UnrelatedRow],
    count: int,
    rng: np.random.Generator,
    *,
    templates: Templates | None = None,
    others: Sequence[EditRecord] = (),
) -> list[UnrelatedRow]:
    """Negatives in the edits' own form: an edit's prompt about something no edit is about.

    Without them, unrelated rows can differ from edits by their form alone, and a gate that reads
    the form takes every question of that form for an edit. The new subject is a few words of an
    unrelated text, written as a name. It cannot be another edit's subject: a gate that learns to
    close on a subject stays closed on paraphrases about it.

    Args:
      records: the edits; only those whose prompt contains their subject are used.
      unrelated: texts that the words of the new subjects come from.
      count: number of rows; fewer if there are not enough combinations.
      rng: source of the choice.
      templates: paraphrases, which the positives use too.
      others: further edits whose subjects and prompts are avoided.
    """
    forms = {
        i: [record.prompt, *paraphrases(record, templates or {})]
        for i, record in enumerate(records)
        if record.subject and record.subject in record.prompt
    }
    carriers = list(forms)
    edits = [*records, *others]
    known = {normalise(record.subject) for record in edits if record.subject}
    taken = {normalise(text) for r in edits for text in (r.prompt, *r.rephrases)}
    rows: list[UnrelatedRow] = []
    for _ in range(20 * count if carriers and unrelated else 0):
        if len(rows) >= count:
            break
        i = carriers[int(rng.integers(len(carriers)))]
        name = _borrowed_name(unrelated[int(rng.integers(len(unrelated)))], rng)
        form = forms[i][int(rng.integers(len(forms[i])))]
        prompt = form.replace(str(records[i].subject), name)
        if name and normalise(name) not in known and normalise(prompt) not in taken:
            taken.add(normalise(prompt))
            rows.append(UnrelatedRow(prompt))
    return rows


def in_edit_form(row: UnrelatedRow, records: Sequence[EditRecord]) -> UnrelatedRow:
    """An unrelated row in the edits' form: no "nq question:", a capital, their closing sign."""
    text = strip_nq(row.prompt).strip()
    signs = [record.prompt[-1] for record in records]
    sign = max(sorted(set(signs)), key=signs.count)
    if not sign.isalnum() and not text.endswith(sign):
        text += sign
    return UnrelatedRow(text[:1].upper() + text[1:], row.answer)


def _borrowed_name(row: UnrelatedRow, rng: np.random.Generator) -> str:
    words = strip_nq(row.prompt).split()
    start = int(rng.integers(len(words)))
    length = int(rng.integers(1, 4))
    return " ".join(word.strip(".,?!").capitalize() for word in words[start : start + length])


def _template(text: str | None, record: EditRecord) -> str | None:
    """The text from the subject's sentence on, with a slot for the subject; None without one."""
    if not text or not record.subject:
        return None
    place = text.rfind(record.subject)
    if place < 0:
        return None
    begin = max((end.end() for end in _SENTENCE_END.finditer(text, 0, place)), default=0)
    return text[begin:].replace(record.subject, _SLOT)
