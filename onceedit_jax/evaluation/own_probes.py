"""Questions about edits, made from the edits: what must be answered anew, and what as before."""

import dataclasses
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from onceedit_jax.data.leakage import digest, drop_leaks
from onceedit_jax.data.records import EditRecord, neutral_rows
from onceedit_jax.data.relations import SUBJECT, Relation, relation_bank
from onceedit_jax.editing.relation_reading import own_qualifiers, own_subjects, subjects_of
from onceedit_jax.evaluation.forms import for_another, forms, in_texts, whole_sentence
from onceedit_jax.evaluation.probes import Probe, told_fact
from onceedit_jax.text.subjects import Subjects, folded

WORDINGS, OTHERS = 2, 3  # questions of an edit in the columns Gen and Same subject
SHORTEST = 4  # letters of a word that says what is asked for
ASKING = frozenset(
    {"does", "give", "have", "name", "tell", "that", "what", "when", "where", "which", "whose"}
)


@dataclasses.dataclass(frozen=True)
class Edits:
    """Edits, and what is known of them.

    Attributes:
      records: N edits.
      relations: of each, its relation in the bank; None where it is not known.
      trained: digests of the texts that were trained on.
    """

    records: Sequence[EditRecord]
    relations: Sequence[Relation | None]
    trained: Collection[str] = frozenset()

    def unseen(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that were not trained on."""
        return [text for text in texts if digest(text) not in self.trained]


def probes_of(edits: Edits, places: Sequence[int] | None = None, *, seed: int = 0) -> list[Probe]:
    """Questions about edits; those of one edit do not depend on which others are asked about.

    Rel is the edit's prompt, and the columns of forms have it as people write it. Sentence is the
    form that wants a sentence: there a bare answer is wrong. In a text the question stands among
    sentences of another kind. Gen is the edit's rephrase, or else wordings of its relation in the
    bank that were not trained on; there may be none. Same subject asks for other relations of the
    subject, by themselves and in a text. Another time or person is the edit's question as it would
    be put about 1950, about the one before, and about a rival of the subject. Unrelated is a
    neutral text. All of these must be answered as before.

    Args:
      edits: all edits.
      places: of those that are asked about (default: all).
      seed: of what is drawn.
    """
    subjects = subjects_of(edits.records)
    numbers = own_subjects(edits.records, subjects)
    neutral = edits.unseen(_neutral(edits.records, subjects))
    probes = []
    for place in range(len(edits.records)) if places is None else places:
        rng = np.random.default_rng([seed, place])
        new = told_fact(edits.records[place].target)
        also = tuple(map(told_fact, edits.records[place].accepted))
        together = np.flatnonzero(numbers == numbers[place]).tolist()
        for column, text in _asking(edits, place, rng):
            probes.append(
                Probe(column, place, text, new, answers=also, worded=column == "Sentence")
            )
        others = _others(edits, place, together, rng)
        kept = [("Same subject", text) for text in others]
        kept += [
            ("Same subject, in a text", text)
            for question in others[:1]
            for text in in_texts(question, edits.records[place].subject or "")
        ]
        kept += [("Another time or person", text) for text in _for_another(edits.records[place])]
        kept += [("Unrelated", text) for text in _drawn(neutral, 1, rng)]
        probes += [Probe(column, place, text, new, "unchanged") for column, text in kept]
    # A table has the columns in this order, whichever of them the first edit has.
    asked = (f"form: {name}" for name in forms())
    same = ("Same subject", "Same subject, in a text", "Another time or person")
    order = ["Rel", "Gen", *asked, "Sentence", "In a text", *same, "Unrelated"]
    return sorted(probes, key=lambda probe: order.index(probe.column))


def _asking(edits: Edits, place: int, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """What asks for an edit's answer, with its column."""
    record, relation = edits.records[place], edits.relations[place]
    yield "Rel", record.prompt
    yield from (("Gen", text) for text in _reworded(edits, record, relation, rng))
    if not record.prompt.rstrip().endswith("?"):
        return  # the forms are those of a question
    statements = _about(record, relation.statements if relation else ())
    statement = next(iter([*edits.unseen(statements), *statements]), None)
    for name, form in forms(statement=statement).items():
        # The question as it was edited is Rel.
        if (text := form(record.prompt)) != record.prompt:
            yield f"form: {name}", text
    yield "Sentence", whole_sentence(record.prompt)
    if record.subject:
        yield from (("In a text", text) for text in in_texts(record.prompt, record.subject))


def _reworded(
    edits: Edits, record: EditRecord, relation: Relation | None, rng: np.random.Generator
) -> list[str]:
    """An edit's question in other words that were not trained on."""
    if record.rephrases:
        return [*record.rephrases]
    texts = _about(record, relation.wordings if relation else ())
    return _drawn(edits.unseen([text for text in texts if text != record.prompt]), WORDINGS, rng)


def _others(
    edits: Edits, place: int, together: Sequence[int], rng: np.random.Generator
) -> list[str]:
    """Questions for other relations of an edit's subject.

    No edit of this subject may ask for them. Where an edit's relation is known they are of
    relations that a subject may have beside it, which the bank keeps apart. Where it is not, they
    share no word with its prompt.

    Args:
      edits: all edits.
      place: of the edit.
      together: places of all edits about its subject.
      rng: source of the choice.
    """
    record, relation = edits.records[place], edits.relations[place]
    edited = {known.name for i in together if (known := edits.relations[i])}
    unknown = [edits.records[i].prompt for i in together if edits.relations[i] is None]
    taken = set[str]().union(*(_content(prompt) for prompt in unknown))
    others = [
        other
        for other in relation_bank()
        if other.name not in edited
        and (relation is None or other.kinds & relation.kinds)
        and taken.isdisjoint(
            word for text in (other.name, *other.questions) for word in _content(text)
        )
    ]
    order = rng.permutation(len(others))[:OTHERS].tolist()
    return [text for i in order for text in _drawn(_about(record, others[i].questions), 1, rng)]


def _for_another(record: EditRecord) -> list[str]:
    """An edit's question for another time or person; none if it is put with such words itself."""
    if own_qualifiers([record])[0].asked or not record.prompt.rstrip().endswith("?"):
        return []
    return [*for_another(record.prompt, record.subject or "")]


def _content(text: str) -> set[str]:
    """The words of a text that may say what it asks for."""
    return {word for word in folded(text) if len(word) >= SHORTEST} - ASKING


def _about(record: EditRecord, wordings: Sequence[str]) -> list[str]:
    """Wordings of the bank about an edit's subject; none if it has no name."""
    return [text.replace(SUBJECT, record.subject) for text in wordings if record.subject]


def _neutral(records: Sequence[EditRecord], subjects: Subjects) -> list[str]:
    """The library's neutral texts that no edit is about."""
    rows, _ = drop_leaks(neutral_rows(), records)
    return [row.prompt for row in rows if not subjects.find(row.prompt)]


def _drawn(texts: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [texts[i] for i in rng.permutation(len(texts))[:count].tolist()]
