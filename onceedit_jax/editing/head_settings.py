"""How a relation head is learnt; this module imports no JAX."""

import dataclasses

from onceedit_jax.checks import check_settings


@dataclasses.dataclass(frozen=True)
class HeadSettings:
    """How a relation head is learnt.

    Attributes:
      layers: lower layers of the plug-in that it reads; 0 takes a little over half of them.
      width: numbers of a relation vector.
      forms: forms of each wording, beside the wording itself.
      steps: of AdamW, each over all relations.
      learning_rate: at the beginning; it falls to zero along a cosine.
      weight_decay: of AdamW.
      dropout: share of the numbers of a state that a step leaves out.
      contrast: weight of the loss that picks a text's relation among all others.
      held_back: share of the relations that calibrate the head and are not learnt.
      seed: the only source of randomness.
    """

    layers: int = 0
    width: int = 128
    forms: int = 2
    steps: int = 800
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.2
    contrast: float = 0.3
    held_back: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot be learnt with.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(
            self,
            above_zero=("width", "steps", "learning_rate", "held_back"),
            not_negative=("layers", "forms", "weight_decay", "dropout", "contrast", "seed"),
        )
