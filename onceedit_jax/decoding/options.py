"""Choices of decoding that commands offer; this module imports no JAX."""

import dataclasses
import numbers
from typing import Literal

from onceedit_jax.checks import check_settings
from onceedit_jax.errors import InputError

# Whether a plug-in drafts for what a target says alone. "auto": where it can pay; "on": beside any
# target that lies on one device.
Speculate = Literal["auto", "on", "off"]

COLDEST = 1e-5  # a lower temperature counts as 0: nothing else could be drawn, and it may overflow
HOTTEST = 1e6  # a higher one makes all tokens alike, and may overflow


@dataclasses.dataclass(frozen=True)
class SamplingSettings:
    """How the next token is chosen from a distribution: the most likely one, or one that is drawn.

    The logits are divided by the temperature, the `top_k` likeliest tokens stay, and of these the
    likeliest ones that have `top_p` of their mass; the next token is drawn from the rest. The order
    is that of transformers.

    Attributes:
      temperature: 0 takes the most likely token, and the other settings have no effect.
      top_p: the least mass of the likeliest tokens that are drawn from; 1 for all tokens.
      top_k: how many of the likeliest tokens are drawn from, more where several are as likely as
        the last of them; 0 for all tokens.
      seed: of the random numbers. Each prompt of a call has numbers of its own, one for each token,
        so that an answer does not depend on which others are written with it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no token can be drawn by.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        for name in ("temperature", "top_p", "top_k", "seed"):
            value = getattr(self, name)
            whole = name in ("top_k", "seed")
            kind = numbers.Integral if whole else numbers.Real
            if isinstance(value, bool) or not isinstance(value, kind):
                expected = "a whole number" if whole else "a number"
                raise InputError(f"setting {name}={value!r}: expected {expected}")
            # NumPy's numbers become Python's, which have no width.
            object.__setattr__(self, name, (int if whole else float)(getattr(self, name)))
        check_settings(
            self,
            above_zero=["top_p"],
            not_negative=["temperature", "top_k"],
            at_most={"temperature": HOTTEST, "top_p": 1},
        )

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn; otherwise the most likely ones are taken."""
        return self.temperature >= COLDEST


GREEDY = SamplingSettings()
