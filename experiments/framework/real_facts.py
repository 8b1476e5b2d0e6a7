"""Real facts with questions that a data set of edits leaves out: HalluEditBench, one a subject.

A subject's other facts, and a generated question about it, must be answered as before. Topics for
development and topics that are measured are disjoint.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onceedit_jax.data.loaders import load_unrelated
from onceedit_jax.data.normalization import normalise
from onceedit_jax.data.records import EditRecord, strip_nq
from onceedit_jax.evaluation.forms import for_another, forms, in_texts, whole_sentence
from onceedit_jax.evaluation.probes import Probe

FILE, UNRELATED = "hallueditbench.json", "zsre_unrelated_nq.json"
DEVELOPMENT = frozenset(
    {
        "art_sculpture",
        "business_corporation",
        "entertainment_music_genre",
        "geography_forest",
        "human_writer",
        "places_landmark",
    }
)
Row = Mapping[str, Any]
NEAR_QUESTIONS = Path(__file__).with_name("near_questions.jsonl")


@dataclasses.dataclass(frozen=True)
class Draw:
    """Facts to edit, and the questions about them.

    Attributes:
      records: the edits.
      probes: the questions.
    """

    records: list[EditRecord]
    probes: list[Probe]

    def asking(self, facts: int) -> "Draw":
        """The draw with the questions of so many of its facts, evenly spread; 0 keeps all."""
        if not 0 < facts < len(self.records):
            return self
        kept = {i * len(self.records) // facts for i in range(facts)}
        return Draw(self.records, [probe for probe in self.probes if probe.fact in kept])


def load_rows(data: Path, *, development: bool | None) -> list[Row]:
    """The rows of a half of the topics (None: of all) that name their subject in both questions."""
    rows = json.loads((data / FILE).read_text(encoding="utf-8"))
    topics = (True, False) if development is None else (development,)
    return [
        row
        for row in rows
        if (row["topic"] in DEVELOPMENT) in topics
        and all(_names(row, key) for key in ("question", "paraphrased_question"))
    ]


def draw(data: Path, size: int, number: int, *, development: bool | None = False) -> Draw:
    """The facts of one draw; draws of one size are disjoint.

    Args:
      data: folder of the data sets.
      size: number of facts.
      number: which of the draws, from 0.
      development: from the topics that anything may be tuned on; None: from all.

    Raises:
      ValueError: there are fewer subjects than the draw needs.
    """
    rows = load_rows(data, development=development)
    subjects: dict[str, list[Row]] = {}
    for row in rows:
        subjects.setdefault(row["subject"], []).append(row)
    order = np.random.default_rng(0).permutation(len(subjects))
    chosen = order[number * size : (number + 1) * size]
    if len(chosen) < size:
        raise ValueError(f"draw {number} of {size} facts: there are {len(subjects)} subjects")
    names = list(subjects)
    groups = [subjects[names[i]] for i in chosen.tolist()]
    edited = {names[i] for i in chosen.tolist()}
    rest = [row for row in rows if row["subject"] not in edited]
    unrelated = [strip_nq(row.prompt) for row in load_unrelated(data / UNRELATED)]
    records, probes = [], []
    for fact, group in enumerate(groups):
        first, others = group[0], group[1:]
        records.append(
            EditRecord(
                first["question"],
                first["object"],
                rephrase=first["paraphrased_question"],
                subject=first["subject"],
                index=fact,
            )
        )
        probes += _probes(fact, first, others, rest, unrelated[(number * size + fact) % 600])
    return Draw(records, probes)


def near_probes(records: Sequence[EditRecord]) -> list[Probe]:
    """Questions near some of the facts, which somebody wrote without a look at the gate's rules.

    Six of each of sixty facts: three for another fact of the kind (of another time, the next one,
    somebody else's), and three for the fact itself, with words that might be taken for such.
    """
    lines = NEAR_QUESTIONS.read_text(encoding="utf-8").splitlines()
    near = {row["subject"]: row for row in map(json.loads, lines)}
    return [
        Probe(f"Near: {kind}", fact, text, record.target, expects)
        for fact, record in enumerate(records)
        for kind, key, expects in (
            ("another fact", "other", "unchanged"),
            ("the fact", "same", "new"),
        )
        for text in near.get(record.subject, {}).get(key, ())
    ]


def named_edits(records: Sequence[EditRecord], prompts: Sequence[str]) -> list[int | None]:
    """A lookup of subjects as strings: for each prompt the first edit whose subject it holds."""
    subjects = [str(record.subject).lower() for record in records]
    return [
        next((n for n, subject in enumerate(subjects) if subject in prompt.lower()), None)
        for prompt in prompts
    ]


def _probes(
    fact: int, row: Row, others: Sequence[Row], rest: Sequence[Row], unrelated: str
) -> list[Probe]:
    """The questions about one fact."""
    new, subject, relation = row["object"], row["subject"], row["relation"]
    question = row["question"]

    def asks(column: str, prompt: str, **options: Any) -> Probe:
        return Probe(column, fact, prompt, new, **options)

    statement = f"The {relation} of {subject} is"
    probes = [asks("Rel", question), asks("Gen", row["paraphrased_question"])]
    probes += [
        asks(f"form: {name}", form(question)) for name, form in forms(statement=statement).items()
    ]
    probes.append(asks("Sentence", whole_sentence(question), worded=True))
    probes += [asks("In a text", text) for text in in_texts(question, subject)]
    same = [row["locality_question"]] if _names(row, "locality_question") else []
    same += [other["question"] for other in others if other["relation"] != relation][:2]
    probes += [asks("Same subject", prompt, expects="unchanged") for prompt in same]
    probes += [
        asks("Same subject, in a text", text, expects="unchanged")
        for prompt in same[:1]
        for text in in_texts(prompt, subject)
    ]
    probes += [
        asks("Another time or person", text, expects="unchanged")
        for text in for_another(question, subject)
    ]
    near = next((other for other in rest if other["relation"] == relation), None)
    if near:
        probes.append(asks("Same relation", near["question"], expects="unchanged"))
    probes.append(asks("Unrelated", unrelated, expects="unchanged"))
    denied = f"Is it true that the {relation} of {subject} is not {new}?"
    probes += [
        asks("Reversed", row["reversed_relation_question"], expects="answer", answers=(subject,)),
        asks("Yes", row["yes_question"], expects="answer", answers=("yes",)),
        asks("No", row["no_question"], expects="answer", answers=("no",)),
        asks("Negated", denied, expects="answer", answers=("no",)),
    ]
    for hops in (2, 3):
        answer = row[f"answer_{hops}hop"]
        if answer and normalise(answer) != normalise(new):
            prompt = row[f"question_{hops}hop"]
            probes.append(asks(f"{hops}-hop", prompt, expects="answer", answers=(answer,)))
    probes.append(asks("Long", f"{question} Write three sentences about it."))
    return probes


def _names(row: Row, key: str) -> bool:
    return row["subject"].lower() in row[key].lower()
