"""Bucketed shapes: all rounding of ragged sizes is here, so that few shapes are compiled."""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32


def bucket(size: int, *, smallest: int = 8) -> int:
    """Round a size up to the next of 8, 12, 16, 24, 32, 48, 64, 96, ... (at most 1/3 padding).

    Args:
      size: at least 0.
      smallest: the first of the sizes, a power of two.
    """
    width = smallest
    while width < size:
        # 8 -> 12 -> 16 -> 24 -> ...: a power of two, then halfway to the next.
        halfway = width > 1 and width & (width - 1) == 0
        width = width * 3 // 2 if halfway else max(2, width * 4 // 3)
    return width


def round_up(size: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `size`."""
    return -(-size // multiple) * multiple


def doubling(size: int, *, smallest: int) -> int:
    """Round up to `smallest` times a power of two; coarser than `bucket`, for slow compilations."""
    width = smallest
    while width < size:
        width *= 2
    return width


def group_height(rows: int, largest: int) -> int:
    """Rows of a batch after padding: 1, a quarter of the largest, or the largest.

    So a single row is cheap, and there are few shapes to compile.
    """
    return next(height for height in (1, max(1, largest // 4), largest) if rows <= height)


def slices(rows: int, largest: int) -> list[slice]:
    """Batches of rows: whole ones of the largest height, and what is left in quarters of it.

    So rows that are sorted by length, and do not fill a batch, are padded less. More than two
    quarters are one batch: each pass reads all weights. The heights are those of `group_height`.
    """
    whole, quarter = rows - rows % largest, max(1, largest // 4)
    step = quarter if rows - whole <= 2 * quarter else largest
    starts = [*range(0, whole, largest), *range(whole, rows, step)]
    return [slice(start, stop) for start, stop in itertools.pairwise([*starts, rows])]


def pad_rows(
    rows: list[list[int]], *, width: int, height: int | None = None, fill: int = 0
) -> Int32[np.ndarray, "height {width}"]:
    """Ragged integer rows as one array, right-padded with `fill`.

    Args:
      rows: at most `height` rows.
      width: columns of the array.
      height: rows of the array (default: one for each row).
      fill: value of the padding.

    Raises:
      ValueError: a row is longer than `width`.
    """
    height = len(rows) if height is None else height
    out = np.full((height, width), fill, np.int32)
    for i, row in enumerate(rows):
        if len(row) > width:
            raise ValueError(f"row {i} has {len(row)} tokens, more than the width of {width}")
        out[i, : len(row)] = row
    return out


def pack(lengths: list[int], width: int) -> list[tuple[int, int]]:
    """Pack short rows into shared lines (first fit, longest row first).

    Args:
      lengths: tokens of each row.
      width: tokens of a line.

    Returns:
      The line and the first column of each row.

    Raises:
      ValueError: a row is longer than a line.
    """
    if max(lengths, default=0) > width:
        raise ValueError(f"a row has {max(lengths)} tokens, more than the {width} of a line")
    filled: list[int] = []
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        line = next((n for n, used in enumerate(filled) if used + lengths[i] <= width), len(filled))
        if line == len(filled):
            filled.append(0)
        places[i] = (line, filled[line])
        filled[line] += lengths[i]
    return places


def deal(lengths: Sequence[int], parts: int, *, most: int | None = None) -> list[list[int]]:
    """Deal rows to parts of about equal length: the longest first, each to the shortest part.

    Args:
      lengths: tokens of each row.
      parts: how many parts; some stay empty where there are fewer rows.
      most: rows of a part at most (default: any number); `most * parts` rows or fewer are given.

    Returns:
      The rows of each part, by their places in `lengths`.
    """
    dealt: list[list[int]] = [[] for _ in range(parts)]
    filled = [0] * parts
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        open_parts = (n for n in range(parts) if most is None or len(dealt[n]) < most)
        part = min(open_parts, key=lambda n: (filled[n], n))
        dealt[part].append(i)
        filled[part] += lengths[i]
    return dealt


def row_positions(
    lengths: list[int], *, width: int, height: int | None = None
) -> Int32[np.ndarray, "height {width}"]:
    """Positions of right-padded rows: 0, 1, ... for tokens and -1 for padding."""
    counts = np.zeros(len(lengths) if height is None else height, np.int32)
    counts[: len(lengths)] = lengths
    columns = np.arange(width, dtype=np.int32)
    return np.where(columns[None, :] < counts[:, None], columns[None, :], -1).astype(np.int32)


def batch_of(
    rows: list[list[int]], *, largest: int, width: int = 0, multiple: int = 1
) -> tuple[Int32[np.ndarray, "batch length"], Int32[np.ndarray, "batch length"]]:
    """Ragged token rows as a batch of bucketed shape: tokens and positions.

    Args:
      rows: at most `largest` rows.
      largest: see `group_height`.
      width: least number of columns.
      multiple: the number of rows is rounded up to a multiple of it.
    """
    lengths = [len(row) for row in rows]
    height = round_up(group_height(len(rows), largest), multiple)
    shape = {"width": bucket(max(width, *lengths)), "height": height}
    return pad_rows(rows, **shape), row_positions(lengths, **shape)
