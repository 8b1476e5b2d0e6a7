"""An edited plug-in and its targets: prepare the pairs, score them, generate with them."""

from onceedit_jax.ensemble.ensemble import Ensemble
from onceedit_jax.ensemble.generation import Answers, answer, answer_alone, generate
from onceedit_jax.ensemble.preparation import (
    PreparedPlugin,
    PreparedTarget,
    prepare_plugin,
    prepare_target,
)
from onceedit_jax.ensemble.scoring import Scored, TokenScores, score
from onceedit_jax.ensemble.target import Target, load_target

__all__ = [
    "Answers",
    "Ensemble",
    "PreparedPlugin",
    "PreparedTarget",
    "Scored",
    "Target",
    "TokenScores",
    "answer",
    "answer_alone",
    "generate",
    "load_target",
    "prepare_plugin",
    "prepare_target",
    "score",
]
