"""Probes: questions that ask what an edit must change, and what it must not.

A data set's rephrases and unrelated prompts leave out what users meet first: a question about the
edited subject that asks something else, and the edit's question in another form.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float

from onceedit_jax.data.normalization import normalise

Expects = Literal["new", "unchanged", "answer"]
RESAMPLES = 2000
OTHER_WORDS = 3  # "It is in Paris": the fewest that make a sentence of an answer
_ARTICLE = re.compile(r"^(the|an?) (?=\w)")  # with a capital it is a part of the name


@dataclasses.dataclass(frozen=True)
class Probe:
    """One question about an edit.

    Attributes:
      column: the name of what it measures; probes of one column are averaged.
      fact: the place of its edit.
      prompt: the question.
      new: the edit's new answer.
      expects: that the answer says `new`, that it is word for word the one before the edit, or that
        it says one of `answers`.
      answers: right answers of a question that needs more than the edit; where the new answer is
        expected, others that are right too.
      old: answers that were true before; an answer that expects `new` must not say them where
        `strict`.
      strict: whether an answer that also says an old one is wrong, as in a long answer.
      worded: whether the answer must have `OTHER_WORDS` words beside `new`: a bare one is wrong.
    """

    column: str
    fact: int
    prompt: str
    new: str
    expects: Expects = "new"
    answers: tuple[str, ...] = ()
    old: tuple[str, ...] = ()
    strict: bool = False
    worded: bool = False


@dataclasses.dataclass(frozen=True)
class Column:
    """The average of a column, over edits.

    Attributes:
      value: mean over edits of each edit's mean.
      low: lower end of the 95% bootstrap interval.
      high: its upper end.
      by_fact: each edit's mean, by its place.
      probes: number of probes.
    """

    value: float
    low: float
    high: float
    by_fact: Mapping[int, float]
    probes: int

    @property
    def facts(self) -> int:
        """Number of edits with such a probe."""
        return len(self.by_fact)


def says(answer: str, fact: str) -> bool:
    """Whether an answer has a fact's words in it, one after another, case and accents aside."""
    text, wanted = _plain(answer), _plain(fact)
    return bool(wanted) and f" {wanted} " in f" {text} "


def told_fact(target: str) -> str:
    """The words by which an edit's answer is known: "the theremin" is also said as "a theremin"."""
    return _ARTICLE.sub("", target)


def score_probe(probe: Probe, before: str, after: str) -> dict[str, float]:
    """The scores of an answer: `right`, and `intrusion` where the answer should be unchanged.

    Args:
      probe: the question.
      before: the answer without the edit.
      after: the answer with it.
    """
    if probe.expects == "unchanged":
        intruded = says(after, probe.new) and not says(before, probe.new)
        return {"right": float(normalise(before) == normalise(after)), "intrusion": float(intruded)}
    if probe.expects == "answer":
        return {"right": float(any(says(after, each) for each in probe.answers))}
    stale = probe.strict and any(says(after, each) for each in probe.old)
    told = [each for each in (probe.new, *probe.answers) if says(after, each)]
    longest = max(map(_words, told), default=0)
    bare = probe.worded and _words(after) < longest + OTHER_WORDS
    return {"right": float(bool(told) and not stale and not bare)}


def columns(
    probes: Sequence[Probe], scores: Sequence[Mapping[str, float]], *, seed: int = 0
) -> dict[str, Column]:
    """Averages by column; what intrudes has a column of its own.

    Args:
      probes: N questions.
      scores: of each, as `score_probe` gives them.
      seed: of the bootstrap.
    """
    by_column: dict[str, dict[int, list[float]]] = {}
    for probe, score in zip(probes, scores, strict=True):
        for kind, value in score.items():
            name = probe.column if kind == "right" else f"{probe.column}: {kind}"
            by_column.setdefault(name, {}).setdefault(probe.fact, []).append(value)
    return {name: _column(facts, seed) for name, facts in by_column.items()}


def interval(
    values: Float[np.ndarray, "facts"], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of a mean, by percentiles of resampled means."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _column(facts: Mapping[int, Sequence[float]], seed: int) -> Column:
    by_fact = {fact: float(np.mean(values)) for fact, values in facts.items()}
    means = np.array(list(by_fact.values()))
    low, high = interval(means, seed=seed)
    return Column(float(means.mean()), low, high, by_fact, sum(map(len, facts.values())))


def _words(text: str) -> int:
    return len(_plain(text).split())


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKD", text.casefold())
    kept = "".join(c if c.isalnum() else " " for c in text if not unicodedata.combining(c))
    return " ".join(kept.split())
