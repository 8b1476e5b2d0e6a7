"""The record of an edit, the unrelated row, and checks for contradicting and repeated edits."""

import json
import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from onceedit_jax.data.normalization import normalise
from onceedit_jax.errors import InputError

__all__ = [
    "EditRecord",
    "Pair",
    "UnrelatedRow",
    "contradicting",
    "demo_path",
    "duplicates",
    "neutral_rows",
    "strip_nq",
    "without_nq",
]

R = TypeVar("R", "EditRecord", "UnrelatedRow")


_NQ = re.compile(r"^\s*nq\s+question\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A prompt and the text that answers it.

    Attributes:
        prompt: what is asked.
        target: its answer.
        accepted: other texts that are right answers too ("USA" beside "United States").
        kind: what the data set calls questions of this kind, as in "Reasoning"; kinds are scored
            apart.
    """

    prompt: str
    target: str
    accepted: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class EditRecord:
    """One edit, with the questions that evaluate it.

    Attributes:
        prompt: the edit's prompt (reliability is scored on it).
        target: the new answer.
        rephrase: the same question in other words (generality), if the data set has one.
        locality: unrelated prompts with their gold answers (locality).
        portability: questions that need the edit and further facts, with their answers.
        subject: what the edit is about.
        aliases: other names of the subject.
        true_answers: the answers that were true before the edit.
        accepted: other texts that are right answers, beside `target`.
        more_rephrases: the same question in still other words, beside `rephrase`.
        index: position in the list that was loaded.
        source: "file:line", for messages. Records that differ only here are equal.
    """

    prompt: str
    target: str
    rephrase: str | None = None
    locality: tuple[Pair, ...] = ()
    portability: tuple[Pair, ...] = ()
    subject: str | None = None
    aliases: tuple[str, ...] = ()
    true_answers: tuple[str, ...] = ()
    index: int = 0
    source: str = field(default="", compare=False)
    accepted: tuple[str, ...] = ()
    more_rephrases: tuple[str, ...] = ()

    @property
    def rephrases(self) -> tuple[str, ...]:
        """The same question in other words, each as the data set has it."""
        return (*((self.rephrase,) if self.rephrase else ()), *self.more_rephrases)


@dataclass(frozen=True)
class UnrelatedRow:
    """A text on which the gate learns to stay closed, because no edit concerns it.

    Attributes:
        prompt: the text, or the question where the answer is separate.
        answer: its answer; None for a plain sentence, or a question and its answer in one string.
        source: "file:line", for messages. Rows that differ only here are equal.
    """

    prompt: str
    answer: str | None = None
    source: str = field(default="", compare=False)


def contradicting(records: Sequence[EditRecord]) -> frozenset[int]:
    """Positions of records that contradict another one.

    Two records contradict when neither's target is an accepted answer of the other, and

    - their prompts are equal, or
    - their subjects and true answers are equal (ZsRE asks for one fact in several ways, each with
      its own target), or
    - the rephrase of one is the prompt of the other.

    All texts are compared after `normalise`. The result has both records of each pair.
    """
    answers = [set(map(normalise, (record.target, *record.accepted))) for record in records]
    targets = [normalise(record.target) for record in records]

    def differ(i: int, j: int) -> bool:
        return targets[i] not in answers[j] and targets[j] not in answers[i]

    prompts = _group((normalise(record.prompt), i) for i, record in enumerate(records))
    facts = _group(
        ((normalise(record.subject), frozenset(map(normalise, record.true_answers))), i)
        for i, record in enumerate(records)
        if record.subject and record.true_answers
    )
    positions: set[int] = set()
    for members in [*prompts.values(), *facts.values()]:
        # Most have one answer. Where they differ, each is held against the others.
        if len({targets[i] for i in members}) > 1:
            positions.update(i for i in members if any(differ(i, j) for j in members))
    for i, record in enumerate(records):
        for rephrase in record.rephrases:
            others = prompts.get(normalise(rephrase), [])
            opposed = [j for j in others if differ(i, j)]
            if opposed:
                positions.update([i, *opposed])
    return frozenset(positions)


def duplicates(records: Sequence[EditRecord]) -> frozenset[int]:
    """Positions of records that repeat an earlier one: same prompt and target, `normalise`d."""
    groups = _group(
        ((normalise(record.prompt), normalise(record.target)), i)
        for i, record in enumerate(records)
    )
    return frozenset(i for members in groups.values() for i in members[1:])


def strip_nq(text: str) -> str:
    """The text without a leading "nq question:", which all locality prompts of ZsRE have."""
    return _NQ.sub("", text)


def without_nq(item: R) -> R:
    """The same record or row, with "nq question:" removed from its locality prompts or its text.

    With the prefix, a gate can separate locality prompts from edits by their first two words.
    Without it, locality tests whether the gate reads the question itself.
    """
    if isinstance(item, UnrelatedRow):
        return replace(item, prompt=strip_nq(item.prompt))
    pairs = tuple(replace(pair, prompt=strip_nq(pair.prompt)) for pair in item.locality)
    return replace(item, locality=pairs)


def demo_path(name: str) -> Path:
    """Path of a data file of the package.

    Args:
        name: "demo_edits.jsonl", "demo_questions.jsonl", "demo_unrelated.json",
            "neutral_texts.json", "probe_facts.jsonl", "reference_texts.json", "relations.yaml" or
            "simple_facts.jsonl".

    Raises:
        InputError: the package has no such file.
    """
    folder = Path(str(files("onceedit_jax.data")))
    if not (path := folder / name).is_file():
        known = ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix not in (".py", "")))
        raise InputError(f"{name}: no such file in the package; there are {known}")
    return path


def neutral_rows() -> list[UnrelatedRow]:
    """The unrelated rows that `edit` takes by default: `neutral_texts.json` of the package.

    300 short questions and statements about general subjects: the world, science, language, work
    and daily life. They were written for this project. None is taken from a data set, and none is
    about a subject of `demo_edits.jsonl`.
    """
    name = "neutral_texts.json"
    rows = json.loads(demo_path(name).read_text(encoding="utf-8"))
    return [
        UnrelatedRow(row["prompt"], row.get("answer"), source=f"{name}, row {number}")
        for number, row in enumerate(rows, 1)
    ]


def _group(items: Iterable[tuple[Hashable, int]]) -> dict[Hashable, list[int]]:
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for key, position in items:
        groups[key].append(position)
    return dict(groups)
