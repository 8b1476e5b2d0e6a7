"""Fusion rules: from both models' next-token distributions to one token.

A rule is a value, `FusionRule`. `draft`, `vocabulary`, `relative` and `deepen` make the library's.
"""

from onceedit_jax.fusion.draft_rule import DraftSettings, draft
from onceedit_jax.fusion.mixing import fuse, fuse_vocabulary, fused_anchor, fused_token
from onceedit_jax.fusion.relative_rule import RelativeSettings, RelativeState, deepen, relative
from onceedit_jax.fusion.search import SearchSettings, gradient_search, lookup
from onceedit_jax.fusion.step import fused_step
from onceedit_jax.fusion.types import FusedStep, FusionInputs, FusionRule, PairSide
from onceedit_jax.fusion.vocabulary_rule import VocabularySettings, vocabulary

__all__ = [
    "DraftSettings",
    "FusedStep",
    "FusionInputs",
    "FusionRule",
    "PairSide",
    "RelativeSettings",
    "RelativeState",
    "SearchSettings",
    "VocabularySettings",
    "deepen",
    "draft",
    "fuse",
    "fuse_vocabulary",
    "fused_anchor",
    "fused_step",
    "fused_token",
    "gradient_search",
    "lookup",
    "relative",
    "vocabulary",
]
