"""Edit one small language model once; every target LLM answers with the new facts.

    import onceedit_jax as oe

The names below are the whole public surface. They are imported when first used, so that
`import onceedit_jax` and `onceedit --help` cost nothing.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    # pure functions on arrays
    "alpha": "gates.token",
    "edit_loss": "editing.loss",
    "forward": "models.decoder",
    "fuse": "fusion.rules",
    "fuse_vocabulary": "fusion.rules",
    "fused_anchor": "fusion.rules",
    "fused_continuation": "decoding.fused",
    "fused_token": "fusion.rules",
    "fusion_rule": "fusion.rules",
    "gradient_search": "fusion.search",
    "greedy_continuation": "decoding.greedy",
    "lookup": "fusion.search",
    "lookup_table": "relative.tables",
    "build_table": "relative.build",
    "exact_relative": "relative.transfer",
    "transfer_matrix": "relative.transfer",
    "reach": "gates.memory",
    "exact_match": "evaluation.metrics",
    "token_accuracy": "evaluation.metrics",
    # text
    "anchors": "text.anchors",
    "Bridge": "text.bridge",
    "load_tokenizer": "text.tokenizer",
    "vocabulary": "text.vocabulary",
    # models, edits, targets
    "EditedPlugin": "editing.artifact",
    "EditRecord": "data.records",
    "EditSettings": "editing.settings",
    "Ensemble": "ensemble",
    "FusionSettings": "fusion.rules",
    "Pair": "data.records",
    "SearchSettings": "fusion.search",
    "Target": "ensemble",
    "UnrelatedRow": "data.records",
    "edit": "editing.edit",
    "evaluate": "evaluation.protocol",
    "load_model": "models.weights",
    "load_records": "data.loaders",
    "load_target": "ensemble",
    "load_unrelated": "data.loaders",
}
_ALIASES = {"search": ("fusion.search", "gradient_search")}

__all__ = sorted([*_WHERE, *_ALIASES])


def __getattr__(name: str) -> Any:
    if name in _ALIASES:
        module, attribute = _ALIASES[name]
    elif name in _WHERE:
        module, attribute = _WHERE[name], name
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
