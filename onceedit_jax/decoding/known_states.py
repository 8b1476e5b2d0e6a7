"""States of a model that calls about the same texts share, so that each text is read once.

Evaluation asks a target for its own answer to a prompt, for the likelihood of the true answer, and
to check a draft: all three read the prompt, and the draft is often the true answer. So that
continuation is read along when the prompt is, and its states are remembered.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

State = Float[np.ndarray, "hidden"]

MOST_BYTES = 1 << 30  # nothing more is remembered beyond


class KnownStates:
    """What one model is expected to read, and the states that it has computed of that."""

    def __init__(self) -> None:
        """Expect nothing and know nothing yet."""
        self._expected: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._after: dict[tuple[int, ...], State] = {}
        self._bytes = 0

    def forget(self) -> None:
        """Forget everything."""
        self._expected.clear()
        self._after.clear()
        self._bytes = 0

    def expect(self, prompt: Sequence[int], continuation: Sequence[int]) -> None:
        """Have a continuation read along with a prompt; one that is expected already stays.

        Args:
          prompt: its tokens.
          continuation: the tokens after it.
        """
        if self._bytes < MOST_BYTES:
            self._expected.setdefault(tuple(prompt), tuple(continuation))

    def expected(self, prompts: Sequence[Sequence[int]]) -> list[tuple[int, ...]] | None:
        """What is read along with each of N prompts; None where nothing is with any of them."""
        found = [self._expected.get(tuple(prompt), ()) for prompt in prompts]
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
        self._after |= {text[: len(prompt) + i]: state for i, state in enumerate(states)}
        self._bytes += states.nbytes

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
