"""From records to training arrays: rows of tokens, then padded batches in a seeded order."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from onceedit_jax.data.records import EditRecord
from onceedit_jax.distributed.bucketing import (
    bucket,
    deal,
    doubling,
    pack,
    pad_rows,
    round_up,
    row_positions,
)
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.errors import InputError
from onceedit_jax.text.tokenizer import Tokenizer

LINE = 64  # tokens of a packed line, unless a row is longer
LONG_LINE = 256  # tokens of a line of `even_shape`, about; attention makes longer ones dear
STEP = 16  # widths of `even_shape` are multiples of it, so that other edits have the same ones
TEXT_TOKENS = 64  # tokens kept of a text that is no edit

Lines = Int32[np.ndarray, "lines length"]
RowStream = Float[np.ndarray, "length embed"]  # of one row of tokens


@dataclasses.dataclass(frozen=True)
class TrainingRow:
    """One row of tokens for training.

    A row for the gate alone has no target. The gate is read at the last token of the prompt, one
    before `target_start`.

    Attributes:
      tokens: of the prompt and its target.
      target_start: where the target starts; the row's length if it has none.
      related: the gate's label: whether the row is about an edit. None leaves the row out of the
        gate's training.
    """

    tokens: tuple[int, ...]
    target_start: int
    related: bool | None


class Batch(NamedTuple):
    """R rows, packed into lines of tokens, with the target tokens of all rows in one list.

    Several rows share a line, each as a segment of its own, so that few tokens of a step are
    padding. The list of targets lets the vocabulary head run on these tokens alone; on every token
    it would take a third of a step.

    Attributes:
      tokens: int32.
      positions: position within the row, -1 on padding.
      segments: which row a token belongs to, -1 on padding.
      lines: the line that holds each row.
      target_rows: the row of each target token.
      target_columns: the column that each target token is predicted from.
      targets: the target tokens.
      target_mask: 0 for entries that only fill the list.
      gate_columns: the column where each row's gate is read.
      gate_labels: 1 for rows about an edit, 0 for unrelated ones.
      gate_mask: 0 for rows that do not train the gate or only fill the batch.
      stream: in the compute dtype, the residual stream below the layers that are trained; None
        where the whole model runs.
    """

    tokens: Int[Array, "lines length"]
    positions: Int[Array, "lines length"]
    segments: Int[Array, "lines length"]
    lines: Int[Array, "rows"]
    target_rows: Int[Array, "targets"]
    target_columns: Int[Array, "targets"]
    targets: Int[Array, "targets"]
    target_mask: Float[Array, "targets"]
    gate_columns: Int[Array, "rows"]
    gate_labels: Float[Array, "rows"]
    gate_mask: Float[Array, "rows"]
    stream: Float[Array, "lines length embed"] | None = None


class BatchShape(NamedTuple):
    """The shape of a batch: its lines, the tokens of a line, and the length of its targets."""

    lines: int
    width: int
    targets: int


class Even(NamedTuple):
    """How the batches of some epochs are made where lower layers do not run.

    Attributes:
      streams: by a row's tokens, the stream below the layers that are trained.
      shape: of every batch.
    """

    streams: Mapping[tuple[int, ...], RowStream]
    shape: BatchShape


class TextBatch(NamedTuple):
    """Texts as right-padded token rows.

    Attributes:
      tokens: int32.
      positions: int32, -1 on padding.
    """

    tokens: Int[Array, "batch length"]
    positions: Int[Array, "batch length"]


def edit_row(record: EditRecord, tokenizer: Tokenizer, *, max_tokens: int) -> TrainingRow:
    """Tokens of `prompt + " " + target` and the end-of-answer token, so that answers stop.

    Raises:
      InputError: the edit does not fit into `max_tokens`.
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
    """A prompt that trains the gate alone, cut at `max_tokens`.

    If question and answer are one string, nothing tells where the question ends: the gate is then
    read at the last token of both.
    """
    tokens = tokenizer.encode(prompt)[:max_tokens]
    return TrainingRow(tuple(tokens), len(tokens), related)


def text_batches(
    texts: Sequence[str], tokenizer: Tokenizer, *, batch_size: int = 8
) -> list[TextBatch]:
    """Texts as token batches of one shape, each text cut at `TEXT_TOKENS` tokens."""
    rows = [tokenizer.encode(text)[:TEXT_TOKENS] for text in texts]
    width = bucket(max(map(len, rows), default=1))
    batches = []
    for start in range(0, len(rows), batch_size):
        group = rows[start : start + batch_size]
        positions = row_positions([len(row) for row in group], width=width, height=batch_size)
        tokens = pad_rows(group, width=width, height=batch_size)
        batches.append(TextBatch(jnp.asarray(tokens), jnp.asarray(positions)))
    return batches


def epoch_batches(
    rows: Sequence[TrainingRow],
    settings: EditSettings,
    epoch: int,
    *,
    pools: Sequence[Sequence[TrainingRow]] = (),
    multiple: int = 1,
    even: Even | None = None,
) -> Iterator[Batch]:
    """Packed batches of one epoch: all rows and one of each pool, in an order of (seed, epoch)."""
    assert settings.batch_size is not None  # resolved
    for group in epoch_groups(rows, settings, epoch, pools=pools, even=even is not None):
        yield make_batch(group, settings.batch_size, multiple=multiple, even=even)


def epoch_groups(
    rows: Sequence[TrainingRow],
    settings: EditSettings,
    epoch: int,
    *,
    pools: Sequence[Sequence[TrainingRow]] = (),
    even: bool = False,
) -> list[list[TrainingRow]]:
    """The rows of each batch of one epoch, before they are packed.

    With `even` the batches have about the same number of tokens and of rows, in place of a last
    batch with the rest: so one shape serves them all (`even_shape`), and little of it is padding.
    """
    assert settings.batch_size is not None  # resolved
    rng = np.random.default_rng([settings.seed, epoch])
    order = rng.permutation(len(rows) + len(pools))
    present = [*rows, *(pool[int(rng.integers(len(pool)))] for pool in pools)]
    size = settings.batch_size
    if even:
        shuffled = [present[i] for i in order]
        parts = deal([len(row.tokens) for row in shuffled], -(-len(present) // size), most=size)
        # The first parts got the longest rows: no epoch has to begin with them.
        return [[shuffled[i] for i in parts[n]] for n in rng.permutation(len(parts))]
    return [
        [present[i] for i in order[start : start + size]] for start in range(0, len(present), size)
    ]


def even_shape(groups: Sequence[Sequence[TrainingRow]], *, multiple: int = 1) -> BatchShape:
    """The smallest shape that holds each of the batches: a step takes seconds to compile.

    Args:
      groups: the rows of each batch.
      multiple: the number of lines is a multiple of it.
    """
    lengths = [[len(row.tokens) for row in group] for group in groups]
    lines = round_up(-(-max(map(sum, lengths)) // LONG_LINE), multiple)
    width = max(sum(group[i] for i in line) for group in lengths for line in deal(group, lines))
    answers = max(sum(len(row.tokens) - row.target_start for row in group) for group in groups)
    return BatchShape(lines, round_up(width, STEP), round_up(max(answers, 1), STEP))


def make_batch(
    rows: Sequence[TrainingRow], height: int, *, multiple: int = 1, even: Even | None = None
) -> Batch:
    """Pack rows into one batch.

    Args:
      rows: at most `height`.
      height: rows of the batch; those that only fill it are masked everywhere.
      multiple: the number of lines is a multiple of it.
      even: the streams of these rows, and a shape that holds them (default: no streams, and a shape
        for these rows alone).
    """
    lengths = [len(row.tokens) for row in rows]
    if even is None:
        shape, places = _packed(rows, multiple)
    else:
        shape, places = even.shape, _dealt(lengths, even.shape.lines)
    tokens, positions, segments = packed_lines([row.tokens for row in rows], places, shape[:2])
    stream = None
    if even is not None:
        one = next(iter(even.streams.values()))
        stream = np.zeros((*shape[:2], one.shape[1]), one.dtype)
        for row, (line, first) in zip(rows, places, strict=True):
            stream[line, first : first + len(row.tokens)] = even.streams[row.tokens]
    answers = [
        (i, first + max(column - 1, 0), row.tokens[column])
        for i, (row, (_, first)) in enumerate(zip(rows, places, strict=True))
        for column in range(row.target_start, len(row.tokens))
    ]
    targets = np.zeros((shape.targets, 3), np.int32)
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
    if stream is not None:
        arrays["stream"] = stream
    return Batch(**{name: jnp.asarray(array) for name, array in arrays.items()})


def packed_lines(
    rows: Sequence[Sequence[int]], places: Sequence[tuple[int, int]], shape: tuple[int, int]
) -> tuple[Lines, Lines, Lines]:
    """Rows of tokens in the lines that they share: tokens, positions and segments, as in `Batch`.

    Args:
      rows: the tokens of each row.
      places: the line and the first column of each row.
      shape: how many lines, and the tokens of a line.
    """
    tokens, positions, segments = (np.full(shape, fill, np.int32) for fill in (0, -1, -1))
    for i, (row, (line, first)) in enumerate(zip(rows, places, strict=True)):
        span = slice(first, first + len(row))
        tokens[line, span] = row
        positions[line, span] = np.arange(len(row))
        segments[line, span] = i
    return tokens, positions, segments


def _packed(rows: Sequence[TrainingRow], multiple: int) -> tuple[BatchShape, list[tuple[int, int]]]:
    """A shape for these rows, one of few, and the line and the first column of each row."""
    lengths = [len(row.tokens) for row in rows]
    answers = sum(len(row.tokens) - row.target_start for row in rows)
    width = doubling(max(lengths), smallest=LINE)
    places = pack(lengths, width)
    lines = bucket(1 + max(line for line, _ in places), smallest=2)
    shape = BatchShape(round_up(lines, multiple), width, doubling(answers, smallest=32))
    return shape, places


def _dealt(lengths: list[int], lines: int) -> list[tuple[int, int]]:
    """The line and the first column of each row, where the lines are about equally long."""
    places = [(0, 0)] * len(lengths)
    for line, rows in enumerate(deal(lengths, lines)):
        first = 0
        for i in rows:
            places[i] = line, first
            first += lengths[i]
    return places
