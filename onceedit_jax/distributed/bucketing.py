"""The one place where ragged sizes are rounded up, so that few shapes are ever compiled."""

import numpy as np
from numpy.typing import NDArray


def bucket(size: int, *, smallest: int = 8) -> int:
    """Round a size up to the next of 8, 12, 16, 24, 32, 48, 64, 96, ... (at most 1/3 wasted).

    Args:
      size: what has to fit.
      smallest: first of the sizes, a power of two.
    """
    width = smallest
    while width < size:
        # 8 -> 12 -> 16 -> 24 -> ...: a power of two, then halfway to the next.
        halfway = width > 1 and width & (width - 1) == 0
        width = width * 3 // 2 if halfway else max(2, width * 4 // 3)
    return width


def round_up(size: int, multiple: int) -> int:
    """The least multiple of `multiple` that is no less than `size`."""
    return -(-size // multiple) * multiple


def doubling(size: int, *, smallest: int) -> int:
    """Round up to `smallest` times a power of two: fewer shapes, for what is slow to compile."""
    width = smallest
    while width < size:
        width *= 2
    return width


def group_height(rows: int, largest: int) -> int:
    """Rows of a batch that is filled up: 1, a quarter of the largest, or the largest.

    One question should not cost what a batch costs; few heights keep compiled shapes few.
    """
    return next(height for height in (1, max(1, largest // 4), largest) if rows <= height)


def pad_rows(
    rows: list[list[int]], *, width: int, height: int | None = None, fill: int = 0
) -> NDArray[np.int32]:
    """Ragged integer rows as one int32 array `[height, width]`, right-padded with `fill`.

    Raises:
      ValueError: if a row is longer than `width`.
    """
    height = len(rows) if height is None else height
    out = np.full((height, width), fill, np.int32)
    for i, row in enumerate(rows):
        if len(row) > width:
            raise ValueError(f"row {i} holds {len(row)} tokens, more than the {width} asked for")
        out[i, : len(row)] = row
    return out


def pack(lengths: list[int], width: int) -> list[tuple[int, int]]:
    """Places for rows that share lines: for each row its line and first column.

    The longest rows are placed first, each in the first line with room for it.

    Args:
      lengths: tokens of each row.
      width: tokens a line holds.

    Raises:
      ValueError: if a row is longer than a line.
    """
    if max(lengths, default=0) > width:
        raise ValueError(f"a row holds {max(lengths)} tokens, more than the {width} of a line")
    filled: list[int] = []
    places = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        line = next((n for n, used in enumerate(filled) if used + lengths[i] <= width), len(filled))
        if line == len(filled):
            filled.append(0)
        places[i] = (line, filled[line])
        filled[line] += lengths[i]
    return places


def row_positions(
    lengths: list[int], *, width: int, height: int | None = None
) -> NDArray[np.int32]:
    """Positions `[height, width]` of right-padded rows: 0, 1, ... and -1 on padding."""
    counts = np.zeros(len(lengths) if height is None else height, np.int32)
    counts[: len(lengths)] = lengths
    columns = np.arange(width, dtype=np.int32)
    return np.where(columns[None, :] < counts[:, None], columns[None, :], -1).astype(np.int32)


def batch_of(
    rows: list[list[int]], *, largest: int, width: int = 0, multiple: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Ragged token rows as a batch of bucketed shape: tokens and positions `[B, T]`.

    Args:
      rows: at most `largest` rows.
      largest: see `group_height`.
      width: columns to make room for at least.
      multiple: B is one of it.
    """
    lengths = [len(row) for row in rows]
    height = round_up(group_height(len(rows), largest), multiple)
    shape = {"width": bucket(max(width, *lengths)), "height": height}
    return pad_rows(rows, **shape), row_positions(lengths, **shape)
