"""Which random number draws which token: by a seed, the place of a prompt, and the step.

The token at step s of an answer is drawn by number s of its prompt, whatever loop writes it and
whatever else is written with it. So the same seed gives the same answer alone and in a batch, from
a call and from the server, and with and without a small model that drafts.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from onceedit_jax.decoding.options import GREEDY, SamplingSettings
from onceedit_jax.decoding.prefix_batching import head_of, padded
from onceedit_jax.decoding.sampling import Sampling, draw_after
from onceedit_jax.distributed.mesh import mesh_of, to_host
from onceedit_jax.models.config import ModelConfig

LARGEST_K = 2**31 - 1  # no vocabulary has more tokens


class Draw(NamedTuple):
    """How the next tokens of one row are drawn.

    Attributes:
      settings: the settings.
      uniform: `[K]` float32, a random number in [0, 1) for each of them.
    """

    settings: SamplingSettings
    uniform: Float[np.ndarray, "steps"]


class Draws(NamedTuple):
    """How the answers to N prompts are drawn, if they are.

    Attributes:
      settings: of all of them.
      places: which random numbers each prompt has, by its place among those of a call; not looked
        at where nothing is drawn.
    """

    settings: SamplingSettings = GREEDY
    places: tuple[int, ...] = ()

    def of(self, rows: Sequence[int]) -> "Draws":
        """The draws of some of the prompts."""
        if not self.settings.draws:
            return self
        return Draws(self.settings, tuple(self.places[row] for row in rows))

    def next(self, row: int, count: int, *, written: int = 0) -> Draw:
        """The draws of the next tokens of an answer.

        Args:
          row: which of the prompts.
          count: how many tokens.
          written: tokens of the answer before them.
        """
        numbers = random_numbers(self.settings.seed, self.places[row], written + count)
        return Draw(self.settings, numbers[written:])

    def sampling(
        self, steps: int, *, height: int, written: Sequence[int] | None = None
    ) -> Sampling | None:
        """How a compiled loop writes the answers; None where it takes the most likely tokens.

        Args:
          steps: K, the most tokens of each row.
          height: rows of the loop, N or more.
          written: tokens of each answer before the loop (default: none).
        """
        if not self.settings.draws:
            return None
        starts = [0] * len(self.places) if written is None else written
        rows = [self.next(row, steps, written=start) for row, start in enumerate(starts)]
        return sampling_of(rows, height)


TAKEN = Draws()
"""Nothing is drawn: the most likely tokens are taken."""


def random_numbers(seed: int, place: int, count: int) -> Float[np.ndarray, "steps"]:
    """The first random numbers in [0, 1) of one prompt, `[count]` float32.

    Args:
      seed: any whole number of 64 bits.
      place: of the prompt among those of a call.
      count: how many.
    """
    generator = np.random.default_rng([seed % 2**64, place])
    return generator.random(count, dtype=np.float32)


def sampling_of(rows: Sequence[Draw], height: int) -> Sampling:
    """Draws of rows as arrays, with rows that draw nothing to fill up.

    Args:
      rows: those of each row, all with K numbers.
      height: rows of the arrays.
    """
    width = len(rows[0].uniform) if rows else 1
    fill = [Draw(GREEDY, np.zeros(width, np.float32))] * (height - len(rows))
    every = [*rows, *fill]
    return Sampling(
        np.array([row.settings.temperature for row in every], np.float32),
        np.array([row.settings.top_p for row in every], np.float32),
        np.array([min(row.settings.top_k, LARGEST_K) for row in every], np.int32),
        np.stack([row.uniform for row in every]),
    )


def draw_each(
    params: Any,
    config: ModelConfig,
    states: Float[np.ndarray, "rows hidden"],
    rows: Sequence[Draw],
) -> list[int]:
    """One next token after each of N states, drawn from a model's own distribution.

    Args:
      params: the model's parameters.
      config: its configuration.
      states: `[N, D]`, its final states.
      rows: how each is drawn.
    """
    filled = padded(mesh_of(params), states)
    height = filled.shape[0]
    nowhere = np.zeros(height, np.int32)
    sampling = sampling_of(rows, height)
    drawn = draw_after(head_of(params), config, filled[:, None], nowhere, sampling)
    tokens: list[int] = to_host(drawn).tolist()
    return tokens[: len(rows)]


def after_draft(
    proposed: Sequence[int], decided: Sequence[int], *, draws: bool
) -> tuple[list[int], int | None]:
    """What the check of a draft adds to an answer.

    The tokens that the rule takes from the draft stand, drawn or not: a fact is not drawn by lot.
    At the first place where the rule takes another token than the draft's, its token follows, or
    one that is drawn from the target's own distribution there.

    Args:
      proposed: the tokens of the draft, -1 for none.
      decided: the rule's tokens at the same places.
      draws: whether tokens are drawn.

    Returns:
      The tokens, and the place of one more that is to be drawn; None for none.
    """
    agreed = 0
    while agreed < len(proposed) and proposed[agreed] == decided[agreed]:
        agreed += 1
    if agreed == len(proposed):
        return list(decided), None
    return (list(decided[:agreed]), agreed) if draws else (list(decided[: agreed + 1]), None)
