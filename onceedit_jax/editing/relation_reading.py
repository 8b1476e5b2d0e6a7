"""Reads which relation a text asks for, with the lower layers of the unedited plug-in."""

import dataclasses
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from onceedit_jax.data.records import EditRecord
from onceedit_jax.decoding.prefix_batching import shared_batch
from onceedit_jax.distributed.bucketing import doubling
from onceedit_jax.distributed.mesh import mesh_of, to_host, using
from onceedit_jax.gates.types import NOTHING
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import hidden_states
from onceedit_jax.text.asked_sentence import (
    asked_part,
    is_asked,
    masked,
    question_of,
    where_asked,
)
from onceedit_jax.text.asking import lacks_mark, with_mark
from onceedit_jax.text.qualifiers import WORDS, Qualifiers, qualifiers
from onceedit_jax.text.subjects import Mention, Subjects, folded, names_in
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

_ARTICLE = re.compile(r"^(the|an?)\s+", re.IGNORECASE)
MENTIONS = 4  # subjects of one prompt that are looked at
ROWS = 64  # texts in one batch


@dataclasses.dataclass(frozen=True)
class RelationReader:
    """Finds the edits' subjects in texts, and reads what is asked of them.

    Attributes:
      params: the lower layers of the unedited plug-in, with its embeddings and its last norm.
      config: their configuration.
      tokenizer: the plug-in's tokenizer.
      subjects: the edits' subjects.
    """

    params: Params
    config: ModelConfig
    tokenizer: Tokenizer
    subjects: Subjects

    def mentions(self, text: str) -> list[Mention]:
        """The edits' subjects that a text names, each once, where something is asked of it.

        Returns:
          At most `MENTIONS` in the order of the text: those that are surely asked about and, of the
          others, those nearest to its end.
        """
        found = self.subjects.find(text)
        plain = masked(text, found)
        by_subject: dict[int, list[Mention]] = {}
        for mention in found:
            by_subject.setdefault(mention.subject, []).append(mention)
        asked = [where_asked(plain, places) for places in by_subject.values()]
        if len(asked) > MENTIONS:
            asked.sort(key=lambda mention: (is_asked(plain, mention), mention.start))
        return sorted(asked[-MENTIONS:], key=lambda mention: mention.start)

    def named(
        self, texts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "texts mentions"], Int[np.ndarray, "texts mentions 2 words"]]:
        """The subjects that each text names, and with which qualifiers it asks of each.

        Returns:
          Their numbers, filled up with `NOTHING`, and the bits of `GateFeatures.qualifiers`, filled
          up with zeros.
        """
        found = [self.mentions(text) for text in texts]
        rows = np.full((len(texts), _width(found)), NOTHING, np.int32)
        bits = np.zeros((*rows.shape, 2, WORDS), np.int32)
        for i, (text, mentions) in enumerate(zip(texts, found, strict=True)):
            for n, mention in enumerate(mentions):
                rows[i, n], bits[i, n] = mention.subject, qualifiers(text, mention).bits
        return rows, bits

    def asked(self, texts: Sequence[str]) -> Float[np.ndarray, "texts mentions states"]:
        """States after what each text asks of each subject that it names, zeros to fill up."""
        found = [[asked_part(text, each) for each in self.mentions(text)] for text in texts]
        distinct = sorted({part for parts in found for part in parts})
        read = self.read(distinct)
        places = {part: i for i, part in enumerate(distinct)}
        states = np.zeros((len(texts), _width(found), 2 * self.config.hidden_size), np.float32)
        for row, parts in zip(states, found, strict=True):
            for n, part in enumerate(parts):
                row[n] = read[places[part]]
        return states

    def read(self, texts: Sequence[str]) -> Float[np.ndarray, "texts states"]:
        """The mean of each text's states and the last one, joined."""
        encoded = [self.tokenizer.encode(text) for text in texts]
        states = np.zeros((len(texts), 2 * self.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        mesh = mesh_of(self.params)
        config = self.config.with_compute_dtype("float32")  # as relation heads were learnt
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            with using(mesh):
                batch = shared_batch(mesh, [encoded[i] for i in chosen], largest=ROWS)
                states[chosen] = to_host(_pooled(self.params, config, *batch))[: len(chosen)]
        return states


def as_written(record: EditRecord, text: str, subjects: Subjects) -> str:
    """What a text asks, as an edit is written: its subject by that name, a question with its mark.

    Args:
      record: the edit.
      text: what is asked; "I wonder. who is the ceo of tesla motors" becomes "who is the ceo of
        Tesla Motors?" where the edit asks about Tesla Motors. An alias gives way too, and so do
        sentences that stand around the question, see `question_of`.
      subjects: those of all edits, see `subjects_of`.
    """
    [number] = own_subjects([record], subjects)
    own = _own_mention(record)
    name = record.prompt[own.start : own.stop]
    named = [mention for mention in subjects.find(text) if mention.subject == number]
    if named:
        text = question_of(text, where_asked(masked(text, named), named), record.prompt)
    mentions = [mention for mention in subjects.find(text) if mention.subject == number]
    # A subject may begin with a word that asks: it is left out while the text is judged.
    asks = record.prompt.rstrip().endswith("?") and lacks_mark(_replaced(text, mentions, "it"))
    if len(mentions) > 1:  # "Is Ceylon the old name of Sri Lanka": each keeps its name
        mentions = [m for m in mentions if folded(text[m.start : m.stop]) == folded(name)]
    text = _replaced(text, mentions, name)
    return with_mark(text) if asks else text


def _replaced(text: str, mentions: Sequence[Mention], name: str) -> str:
    """A text with a name in the place of what it calls a subject."""
    for mention in reversed(mentions):
        called = text[mention.start : mention.stop]
        written = name if _ARTICLE.match(called) else _bare(name) or name
        text = text[: mention.start] + written + text[mention.stop :]
    return text


def subjects_of(records: Sequence[EditRecord]) -> Subjects:
    """What the edits are about; edits about one subject share its number.

    A subject is called by its record's name and aliases. Where the prompt calls it otherwise, the
    names in the prompt are its names, and where there are none, the whole prompt is.
    """
    names: dict[tuple[str, ...], list[str]] = {}
    for record in records:
        called = names_of(record)
        names.setdefault(folded(called[0]), []).extend(called)
    return Subjects(list(names.values()))


def names_of(record: EditRecord) -> list[str]:
    """What a prompt may call the subject of an edit: what the gate `fact` looks for."""
    given = [name for name in (record.subject, *record.aliases) if name and folded(name)]
    bare = [rest for name in given if (rest := _bare(name))]
    called = list(dict.fromkeys([*given, *bare]))
    guesses = [*sorted(names_in(record.prompt), key=len, reverse=True), record.prompt]
    while not (called and Subjects([called]).find(record.prompt)):
        called.append(guesses.pop(0))
    return called


def own_parts(records: Sequence[EditRecord]) -> list[str]:
    """What each edit's prompt asks of its own subject."""
    return [asked_part(record.prompt, _own_mention(record)) for record in records]


def own_subjects(records: Sequence[EditRecord], subjects: Subjects) -> Int[np.ndarray, "edits"]:
    """The number of each edit's subject among those of `subjects_of`."""
    numbers = [subjects.number(names_of(record)[0]) for record in records]
    return np.array(numbers, np.int32)


def own_qualifiers(records: Sequence[EditRecord]) -> list[Qualifiers]:
    """The qualifiers of each edit's prompt."""
    return [qualifiers(record.prompt, _own_mention(record)) for record in records]


def qualifier_bits(qualifiers: Sequence[Qualifiers]) -> Int[np.ndarray, "edits 2 words"]:
    """The qualifiers of edits as `GateFeatures.qualifiers` has them."""
    bits = [each.bits for each in qualifiers]
    return np.reshape(np.array(bits, np.int32), (-1, 2, WORDS))


def _own_mention(record: EditRecord) -> Mention:
    """Where an edit's prompt asks something of its subject."""
    named = Subjects([names_of(record)]).find(record.prompt)
    return where_asked(masked(record.prompt, named), named)


def _bare(name: str) -> str:
    """A name without its article; empty where one word would be left.

    "the Eiffel Tower" is also called "Eiffel Tower", but "The Who" is not called "Who".
    """
    rest = _ARTICLE.sub("", name)
    return rest if len(folded(rest)) > 1 else ""


@partial(jax.jit, static_argnames="config")
def _pooled(
    params: Any, config: ModelConfig, tokens: jax.Array, positions: jax.Array
) -> Float[Array, "batch states"]:
    """The mean of the states at tokens and the last one, of each row."""
    states = hidden_states(params, config, tokens, positions)[0].astype(jnp.float32)
    there = positions >= 0
    count = jnp.maximum(there.sum(axis=1), 1)
    mean = jnp.where(there[..., None], states, 0.0).sum(axis=1) / count[:, None]
    last = jnp.take_along_axis(states, (count - 1)[:, None, None], axis=1)[:, 0]
    return jnp.concatenate([mean, last], axis=-1)


def _width(found: Sequence[Sequence[Any]]) -> int:
    return doubling(max(map(len, found), default=1), smallest=1)
