"""From records to training arrays: rows of tokens, then padded batches in a seeded order."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from onceedit_jax.data.records import EditRecord
from onceedit_jax.distributed.bucketing import bucket, doubling, pack, round_up
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.text.tokenizer import Tokenizer

LINE = 64  # tokens of a packed line, unless a row is longer


@dataclasses.dataclass(frozen=True)
class TrainingRow:
    """One row: its tokens, where its target starts, and which side of the gate it is on.

    A row for the gate alone has no target: `target_start` is its length. The gate is read one
    token before `target_start`, the last token of the prompt. `related` is None for a row that the
    gate is not taught.
    """

    tokens: tuple[int, ...]
    target_start: int
    related: bool | None


class Batch(NamedTuple):
    """R rows, packed into B lines of `[T]` tokens, with `[N]` target tokens among them.

    Several rows share a line, each a segment of its own, so that few of a step's tokens are
    padding. Target tokens stand in one list over all rows: the vocabulary head, a third of a step's
    work if it ran on every token, then runs on them alone.
    """

    tokens: jax.Array  # [B, T] int32
    positions: jax.Array  # [B, T] int32 within the row, -1 on padding
    segments: jax.Array  # [B, T] int32, which row a token belongs to, -1 on padding
    lines: jax.Array  # [R] int32, the line that holds each row
    target_rows: jax.Array  # [N] int32
    target_columns: jax.Array  # [N] int32, the column each target token is predicted from
    targets: jax.Array  # [N] int32
    target_mask: jax.Array  # [N] float32
    gate_columns: jax.Array  # [R] int32
    gate_labels: jax.Array  # [R] float32
    gate_mask: jax.Array  # [R] float32, 0 for rows the gate is not taught or that fill the batch


def edit_row(record: EditRecord, tokenizer: Tokenizer, *, max_tokens: int) -> TrainingRow:
    """Tokens of `prompt + " " + target` and the end-of-answer token, so that answers stop.

    Raises:
      InputError: if the edit does not fit into `max_tokens`.
    """
    tokens, start = tokenizer.encode_pair(record.prompt, record.target)
    tokens = [*tokens, tokenizer.end_id]
    if len(tokens) > max_tokens:
        raise InputError(
            f"edit {record.index} takes {len(tokens)} tokens, more than max_tokens={max_tokens}: "
            f"shorten it or raise max_tokens ({record.prompt[:60]!r})"
        )
    return TrainingRow(tuple(tokens), start, related=True)


def gate_row(prompt: str, tokenizer: Tokenizer, *, related: bool, max_tokens: int) -> TrainingRow:
    """A prompt that trains the gate alone.

    Where question and answer are one string, and nothing says where the question ends, its last
    token is the one that is read.
    """
    tokens = tokenizer.encode(prompt)[:max_tokens]
    return TrainingRow(tuple(tokens), len(tokens), related)


def epoch_batches(
    rows: Sequence[TrainingRow],
    settings: EditSettings,
    epoch: int,
    *,
    pools: Sequence[Sequence[TrainingRow]] = (),
    multiple: int = 1,
) -> Iterator[Batch]:
    """The rows, and one of each pool, in the order of (seed, epoch), in packed batches."""
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(len(rows) + len(pools))
    present = [*rows, *(pool[int(rng.integers(len(pool)))] for pool in pools)]
    for start in range(0, len(present), settings.batch_size):
        chosen = [present[i] for i in order[start : start + settings.batch_size]]
        yield make_batch(chosen, settings.batch_size, multiple=multiple)


def make_batch(rows: Sequence[TrainingRow], height: int, *, multiple: int = 1) -> Batch:
    """Pack rows to one batch of `height` rows; what only fills it is masked everywhere.

    The number of its lines is one of `multiple`.
    """
    lengths = [len(row.tokens) for row in rows]
    # A step takes long to compile, so that its shapes are few.
    width = doubling(max(lengths), smallest=LINE)
    places = pack(lengths, width)
    lines = bucket(1 + max(line for line, _ in places), smallest=2)
    shape = (round_up(lines, multiple), width)
    tokens, positions, segments = (np.full(shape, fill, np.int32) for fill in (0, -1, -1))
    for i, (row, (line, first)) in enumerate(zip(rows, places, strict=True)):
        span = slice(first, first + len(row.tokens))
        tokens[line, span] = row.tokens
        positions[line, span] = np.arange(len(row.tokens))
        segments[line, span] = i
    answers = [
        (i, first + max(column - 1, 0), row.tokens[column])
        for i, (row, (_, first)) in enumerate(zip(rows, places, strict=True))
        for column in range(row.target_start, len(row.tokens))
    ]
    targets = np.zeros((doubling(len(answers), smallest=32), 3), np.int32)
    targets[: len(answers)] = np.array(answers, np.int32).reshape(-1, 3)
    filler = [0] * (height - len(rows))
    prompt_ends = [
        first + max(row.target_start - 1, 0) for row, (_, first) in zip(rows, places, strict=True)
    ]
    arrays = {
        "tokens": tokens,
        "positions": positions,
        "segments": segments,
        "lines": np.array([line for line, _ in places] + filler, np.int32),
        "target_rows": targets[:, 0],
        "target_columns": targets[:, 1],
        "targets": targets[:, 2],
        "target_mask": (np.arange(len(targets)) < len(answers)).astype(np.float32),
        "gate_columns": np.array(prompt_ends + filler, np.int32),
        "gate_labels": np.array([row.related is True for row in rows] + filler, np.float32),
        "gate_mask": np.array([row.related is not None for row in rows] + filler, np.float32),
    }
    return Batch(**{name: jnp.asarray(array) for name, array in arrays.items()})
