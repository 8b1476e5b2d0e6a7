"""Questions over several edits: an inner phrase that asks for an edit gives way to its answer.

`What is the capital of the country of citizenship of X?` becomes `What is the capital of Norland?`
after an edit of X's citizenship. The gate says what a phrase asks for; no model writes anything.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from onceedit_jax.ensemble.preparation import PreparedPlugin
from onceedit_jax.gates.fitting import Verdicts
from onceedit_jax.text.inner_phrases import InnerPhrase, inner_phrases
from onceedit_jax.text.prompts import Prompt, plain_text, with_words
from onceedit_jax.text.qualifiers import mentioned_qualifiers, qualifiers, times
from onceedit_jax.text.subjects import Mention, folded

# From this likeness on the text around a phrase asks for the phrase's own edit: "In which city is
# the seat of X?" is one question, not two. Chosen on facts for development.
SAME_QUESTION = 0.3
_FULL_STOP = re.compile(r"(?<!\.\w)\.$")  # not that of "Washington, D.C."


class Hop(NamedTuple):
    """An inner phrase that was replaced by the answer of an edit.

    Attributes:
      phrase: the phrase.
      edit: the place of the edit that it asks for.
      likeness: how likely it asks for it, by the gate.
      text: the text with the edit's answer in the phrase's place.
    """

    phrase: str
    edit: int
    likeness: float
    text: str


class _Candidate(NamedTuple):
    """An inner phrase of one of several texts."""

    place: int
    text: str
    mention: Mention
    phrase: InnerPhrase

    @property
    def around(self) -> str:
        """The text with the bare subject in the phrase's place."""
        return self.replaced(self.text[self.mention.start : self.mention.stop])

    def replaced(self, words: str) -> str:
        """The text with other words in the phrase's place."""
        return self.text[: self.phrase.start] + words + self.text[self.phrase.stop :]

    def says(self, answer: str) -> bool:
        """Whether the text says an answer beside the phrase: it asks whether the two are one."""
        return f" {' '.join(folded(answer))} " in f" {' '.join(folded(self.replaced('|')))} "


def follow(
    plugin: PreparedPlugin, prompts: Sequence[Prompt], *, hops: int | None = None
) -> list[list[Hop]]:
    """The hops of each prompt, at most `hops` (default: `plugin.hops`); none for most prompts.

    Of a conversation the user's last words are looked at.
    """
    hops = plugin.hops if hops is None else hops
    relations = plugin.plugin.reader.relations
    if not hops or relations is None:
        return [[] for _ in prompts]
    return followed(
        [plain_text(prompt) for prompt in prompts],
        mentions=relations.mentions,
        ask=plugin.verdicts,
        answers=[entry.target for entry in plugin.plugin.info.edits],
        threshold=plugin.gate.threshold,
        hops=hops,
    )


def rewritten(prompt: Prompt, hops: Sequence[Hop]) -> Prompt:
    """A prompt after its hops."""
    return with_words(prompt, hops[-1].text) if hops else prompt


def followed(
    texts: Sequence[str],
    *,
    mentions: Callable[[str], Sequence[Mention]],
    ask: Callable[[Sequence[str]], Verdicts],
    answers: Sequence[str],
    threshold: float,
    hops: int,
) -> list[list[Hop]]:
    """The hops of each text, one after another.

    A phrase is replaced if the gate opens for `What is <phrase>?`, and if the text around it asks
    for something else than the phrase's own edit. A text that asks for another edit is left.

    Args:
      texts: N questions.
      mentions: finds the subjects of edits in a text.
      ask: the gate's verdicts on some texts.
      answers: of all edits.
      threshold: alphas below it count as 0.
      hops: the most hops of a text.
    """
    found: list[list[Hop]] = [[] for _ in texts]
    at = dict(enumerate(texts))
    for _ in range(hops):
        steps = _one_hop(at, mentions, ask, answers, threshold)
        for i, hop in steps.items():
            found[i].append(hop)
        at = {i: hop.text for i, hop in steps.items()}
        if not at:
            break
    return found


def _one_hop(
    texts: dict[int, str],
    mentions: Callable[[str], Sequence[Mention]],
    ask: Callable[[Sequence[str]], Verdicts],
    answers: Sequence[str],
    threshold: float,
) -> dict[int, Hop]:
    """The next hop of each text that has one."""
    candidates = [
        _Candidate(i, text, mention, phrase)
        for i, text in texts.items()
        for mention in mentions(text)
        for time in [times(qualifiers(text, mention).asked)]
        for phrase in inner_phrases(text, mention)
        # "How old was the mayor of X in 1950?" does not ask about the mayor of today.
        if time <= mentioned_qualifiers(phrase.question)
    ]
    if not any(candidate.phrase.within for candidate in candidates):
        return {}
    alphas, edits = ask([candidate.phrase.question for candidate in candidates])
    hops = [
        Hop(
            c.text[c.phrase.start : c.phrase.stop],
            edit,
            alpha,
            c.replaced(_FULL_STOP.sub("", answers[edit])),
        )
        for c, alpha, edit in zip(candidates, alphas.tolist(), edits.tolist(), strict=True)
    ]
    kept = [
        n
        for n in _likeliest(candidates, hops, threshold)
        if candidates[n].phrase.within and not candidates[n].says(answers[hops[n].edit])
    ]
    around = ask([candidates[n].around for n in kept])
    whole = ask([candidates[n].text for n in kept])
    return {
        candidates[n].place: hops[n]
        for i, n in enumerate(kept)
        if (around.alphas[i] < SAME_QUESTION or around.edits[i] != hops[n].edit)
        and (
            whole.alphas[i] < threshold
            or (whole.edits[i] == hops[n].edit and candidates[n].phrase.of_it)
        )
    }


def _likeliest(
    candidates: Sequence[_Candidate], hops: Sequence[Hop], threshold: float
) -> Iterator[int]:
    """The place of each text's phrase: of the innermost ones that ask for an edit the likeliest."""
    chosen = set()
    groups = groupby(range(len(hops)), lambda n: (*candidates[n][:3], candidates[n].phrase.start))
    for (place, *_), group in groups:
        likely = [n for n in group if hops[n].edit >= 0 and hops[n].likeness >= threshold]
        if likely and place not in chosen:
            chosen.add(place)
            # Likenesses near 1 differ by nothing that counts: the longest phrase is meant then.
            yield max(likely, key=lambda n: (round(hops[n].likeness, 1), candidates[n].phrase.stop))
