"""Edit one small language model once; every target LLM answers with the new facts.

    import onceedit_jax as oe

The names below are the whole public surface. They are imported when first used, so that
`import onceedit_jax` and `onceedit --help` cost nothing.
"""

from importlib import import_module
from typing import Any

_WHERE = {
    # pure functions on arrays
    "alpha": "gate",
    "edit_loss": "editing.loss",
    "forward": "models.decoder",
    "fuse": "fusion",
    "fuse_vocabulary": "fusion",
    "fused_anchor": "fusion",
    "fused_continuation": "fused_greedy",
    "fused_token": "fusion",
    "fusion_rule": "fusion",
    "gradient_search": "relative_search",
    "greedy_continuation": "models.greedy",
    "lookup": "relative_search",
    "lookup_table": "tables",
    "build_table": "table_building",
    "exact_relative": "transfer",
    "transfer_matrix": "transfer",
    "reach": "memory",
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
    "FusionSettings": "fusion",
    "Pair": "data.records",
    "SearchSettings": "relative_search",
    "Target": "ensemble",
    "UnrelatedRow": "data.records",
    "edit": "editing.edit",
    "evaluate": "evaluation.protocol",
    "load_model": "models.weights",
    "load_records": "data.loaders",
    "load_target": "ensemble",
    "load_unrelated": "data.loaders",
}
_ALIASES = {"search": ("relative_search", "gradient_search")}

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
