"""The ensemble stage: an edited plug-in answers together with any number of target LLMs."""

from onceedit_jax.ensemble.ensemble import Answers, Ensemble, Scored
from onceedit_jax.ensemble.pair import Target, load_target

__all__ = ["Answers", "Ensemble", "Scored", "Target", "load_target"]
