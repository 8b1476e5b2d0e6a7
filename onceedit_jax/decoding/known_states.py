"""States of a model that calls about the same texts share, so that each text is read once.

Evaluation asks a target for its own answer to a prompt, for the likelihood of the true answer, and
to check a draft: all three read the prompt, and the draft is often the true answer. So that
continuation is read along when the prompt is, and its states are remembered.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

State = Float[np.ndarray, "hidden"]

MOST_TOKENS = 15  # of a continuation that are read along
MOST_STATES = 1 << 16  # of 4,096 numbers these are 1 GiB


class KnownStates:
    """What one model is expected to read, and the states that it has computed of that."""

    def __init__(self) -> None:
        """Expect nothing and know nothing yet."""
        self._expected: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._after: dict[tuple[int, ...], State] = {}
        self._count = 0

    def forget(self) -> None:
        """Forget everything."""
        self._expected.clear()
        self._after.clear()
        self._count = 0

    def expect(self, prompt: Sequence[int], continuation: Sequence[int]) -> None:
        """Have the beginning of a continuation read along with a prompt.

        One that is expected already stays, and beyond `MOST_STATES` nothing more is expected.

        Args:
          prompt: its tokens.
          continuation: the tokens after it.
        """
        key, more = tuple(prompt), tuple(continuation[:MOST_TOKENS])
        if key not in self._expected and self._count + len(more) < MOST_STATES:
            self._expected[key] = more
            self._count += len(more) + 1

    def expected(
        self, prompts: Sequence[Sequence[int]], *, most: int = MOST_TOKENS
    ) -> list[tuple[int, ...]] | None:
        """What is read along with each of N prompts; None where nothing is with any of them.

        Args:
          prompts: their tokens.
          most: tokens that are read along at most.
        """
        found = [self._expected.get(tuple(prompt), ())[:most] for prompt in prompts]
        return found if any(found) else None

    def keep(
        self,
        prompt: Sequence[int],
        continuation: Sequence[int],
        states: Float[np.ndarray, "tokens hidden"],
    ) -> None:
        """Remember states.

        Args:
          prompt: its tokens.
          continuation: the T tokens that were read along.
          states: `[T + 1, D]`, after the prompt and after each of these tokens.
        """
        text = (*prompt, *continuation)
        own = states.copy()  # not a view of a whole batch
        self._after |= {text[: len(prompt) + i]: state for i, state in enumerate(own)}

    def after(self, tokens: Sequence[int], count: int) -> Float[np.ndarray, "count hidden"] | None:
        """The states `[count, D]` after the last tokens of a text; None if one is not known.

        Args:
          tokens: of the text.
          count: how many states, 1 or more.
        """
        text, found = tuple(tokens), []
        for end in range(len(text), len(text) - count, -1):  # most unknown texts are so at the end
            state = self._after.get(text[:end])
            if state is None:
                return None
            found.append(state)
        return np.stack(found[::-1])
