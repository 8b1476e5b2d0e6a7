"""From records and a tokenizer to the token arrays that the editors use."""

import dataclasses
import re
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.distributed.bucketing import bucket, pad_rows, row_positions
from onceedit_jax.editors.layers import Edit, Rows
from onceedit_jax.errors import InputError
from onceedit_jax.text.tokenizer import Tokenizer

ESSENCE = "{} is a"  # ROME, section 3.1: what the subject is, which an edit must not change
OPENING_WORDS = 8  # of a text that is put before a prompt


@dataclasses.dataclass(frozen=True)
class _Text:
    """Tokens of a prompt and its answer, where the answer starts, the subject's last column."""

    tokens: list[int]
    start: int
    subject: int = 0


def target_rows(
    pairs: Sequence[EditRecord | Pair], tokenizer: Tokenizer, *, batch_size: int
) -> list[Rows]:
    """Every prompt with its answer, in batches of `batch_size` rows and one shape."""
    texts = [_Text(*tokenizer.encode_pair(pair.prompt, pair.target)) for pair in pairs]
    shape = _shape(texts)
    groups = [texts[i : i + batch_size] for i in range(0, len(texts), batch_size)]
    return [_rows(group, batch_size, *shape) for group in groups]


def openings(texts: Sequence[str], count: int) -> list[str]:
    """Beginnings of the first `count` texts, which ROME and MEMIT put before a prompt."""
    return [" ".join(text.split()[:OPENING_WORDS]) + "." for text in texts[:count]]


def located_edits(
    records: Sequence[EditRecord], tokenizer: Tokenizer, *, prefixes: Sequence[str] = ()
) -> list[Edit]:
    """Every record's prompt, alone and after each prefix, with the place of its subject.

    All edits have one shape.

    Args:
      records: edits with a subject.
      tokenizer: of the model that is edited.
      prefixes: texts that are put before the prompt.

    Raises:
      InputError: a record has no subject, or its subject is not in its prompt.
    """
    located = []
    for record in records:
        start = _subject_start(record)
        subject = record.prompt[start : start + len(record.subject or "")]
        prompts = [
            _located(f"{prefix} " if prefix else "", record, start + len(subject), tokenizer)
            for prefix in ("", *prefixes)
        ]
        tokens = tokenizer.encode(ESSENCE.format(subject))
        last = _column(tokens, subject, tokenizer)
        located.append((prompts, _Text(tokens, len(tokens), last)))
    shape = _shape([text for prompts, essence in located for text in (*prompts, essence)])
    return [
        Edit(
            _rows(prompts, len(prompts), *shape),
            jnp.array([text.subject for text in prompts], jnp.int32),
            _rows([essence], 1, *shape),
            jnp.array([essence.subject], jnp.int32),
        )
        for prompts, essence in located
    ]


def _subject_start(record: EditRecord) -> int:
    """Where the subject starts in the prompt, whatever its case; the last of several places."""
    places = [
        match.start()
        for match in re.finditer(re.escape(record.subject or ""), record.prompt, re.IGNORECASE)
    ]
    if not record.subject or not places:
        raise InputError(
            f"edit {record.index}: its subject {record.subject!r} is not in its prompt "
            f"{record.prompt[:60]!r}; ROME and MEMIT write an edit at its subject, so expected it "
            "there: correct the record or leave it out"
        )
    return places[-1]


def _located(lead: str, record: EditRecord, end: int, tokenizer: Tokenizer) -> _Text:
    tokens, start = tokenizer.encode_pair(lead + record.prompt, record.target)
    return _Text(tokens, start, _column(tokens, lead + record.prompt[:end], tokenizer))


def _column(tokens: Sequence[int], text: str, tokenizer: Tokenizer) -> int:
    """The token with the last byte of `text`, which is the beginning of the tokens' text."""
    size = len(text.encode("utf-8"))
    return next(
        column
        for column in range(len(tokens))
        if len(tokenizer.decode_bytes(tokens[: column + 1])) >= size
    )


def _shape(texts: Sequence[_Text]) -> tuple[int, int]:
    """Width of the rows and of their answers, for all texts."""
    width = bucket(max(len(text.tokens) for text in texts))
    return width, bucket(max(1, *(len(t.tokens) - t.start for t in texts)), smallest=1)


def _rows(texts: Sequence[_Text], height: int, width: int, answer: int) -> Rows:
    lengths = [len(text.tokens) for text in texts]
    columns, targets = np.zeros((height, answer), np.int32), np.full((height, answer), -1, np.int32)
    for i, text in enumerate(texts):
        count = len(text.tokens) - text.start
        columns[i, :count] = np.arange(text.start - 1, len(text.tokens) - 1)
        targets[i, :count] = text.tokens[text.start :]
    tokens = pad_rows([text.tokens for text in texts], width=width, height=height)
    positions = row_positions(lengths, width=width, height=height)
    return Rows(*map(jnp.asarray, (tokens, positions, columns, targets)))
