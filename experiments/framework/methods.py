"""Editing one model by itself, by each of the methods that are compared."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax

from onceedit_jax.editing.batches import text_batches
from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, no_state
from onceedit_jax.editors.registry import EDITORS, editor_by_name
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import Params

T = TypeVar("T")

TRAINED = ("full", "lora", "last-n-layers")  # by gradient; their options are `EditSettings`
LOCATED = ("memit", "alphaedit")  # these change several layers
METHODS = tuple(name for name in EDITORS if name != "last-n-layers")  # of the baselines


class Edited(NamedTuple):
    """An edited model, seconds of editing, and seconds of what is prepared once for a model."""

    result: EditorResult
    seconds: float
    preparation: float


def editor_of_cell(cell: Mapping[str, Any]) -> Editor:
    """The editor that a cell names, which is none of `TRAINED`.

    Args:
      cell: with `method`, `layers` (one layer, or several), `options`, and for methods that locate
        edits `ridge` and `prefixes`.
    """
    method, options = cell["method"], dict(cell["options"])
    if method in LOCATED:
        options["layers"] = tuple(cell["layers"])
    else:
        options["layer"] = cell["layers"]
    if method in ("rome", *LOCATED):
        options["prefixes"] = cell["prefixes"]
    if method in ("rome", "memit"):  # AlphaEdit takes the second moments as they are
        options["moment_ridge"] = cell["ridge"]
    return editor_by_name(method, options)


def edit_alone(editor: Editor, params: Params, config: ModelConfig, inputs: EditorInputs) -> Edited:
    """Edit a model, compilation included in both times."""
    state, preparation = None, 0.0
    if editor.init is not no_state:
        texts = text_batches(inputs.texts, inputs.tokenizer)
        state, preparation = timed(lambda: editor.init(params, config, texts))
    result, seconds = timed(lambda: editor.update(state, params, config, inputs))
    return Edited(result, seconds, preparation)


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` returns, and the seconds it took, compilation included."""
    begun = time.monotonic()
    made = make()
    arrays = (made.params, made.state) if isinstance(made, EditorResult) else made
    jax.block_until_ready(arrays)
    return made, time.monotonic() - begun
