"""What models have said of prompts, for calls that ask about the same ones."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from onceedit_jax.decoding.drafting import Drafter
from onceedit_jax.decoding.known_states import KnownStates
from onceedit_jax.gates.fitting import Verdicts


class Recall:
    """A plug-in's drafts, its gate's verdicts, which no target changes, and states of targets.

    A call begins by forgetting those of the call before, and one that has targets read along ends
    so too: memory is bounded. Within `keeping` it does not. For one thread at a time.
    """

    def __init__(self, drafter: Drafter) -> None:
        """Remember nothing yet.

        Args:
          drafter: remembers its drafts.
        """
        self._drafter = drafter
        self._verdicts: dict[str, tuple[np.float32, np.int32]] = {}
        self._states: dict[str, KnownStates] = {}
        self._keepers = 0

    def forget(self) -> None:
        """Forget everything, unless it is kept."""
        if not self._keepers:
            self._drafter.forget()
            self._verdicts.clear()
            self._states.clear()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """A context in which several calls share what is remembered; it is forgotten at the end."""
        self.forget()
        self._keepers += 1
        try:
            yield
        finally:
            self._keepers -= 1
            self.forget()

    def states(self, target: str) -> KnownStates:
        """The states of the target of this name."""
        return self._states.setdefault(target, KnownStates())

    def verdicts(
        self, texts: Sequence[str], judge: Callable[[Sequence[str]], Verdicts]
    ) -> Verdicts:
        """The verdicts on texts; those that are kept are not asked for again.

        Args:
          texts: N of them.
          judge: gives the verdicts on some.
        """
        if not self._keepers:
            return judge(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._verdicts]
        if new:
            self._verdicts |= zip(new, zip(*judge(new), strict=True), strict=True)
        known = [self._verdicts[text] for text in texts]
        return Verdicts(
            np.array([alpha for alpha, _ in known], np.float32),
            np.array([edit for _, edit in known], np.int32),
        )
