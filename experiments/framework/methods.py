"""Editing one model by itself, by each of the methods that are compared."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import jax

from experiments.framework.definition import Cell, Setup
from experiments.framework.workspace import Workspace
from onceedit_jax.data.records import EditRecord
from onceedit_jax.editing.batches import text_batches
from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, editor_inputs, no_state
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainable import trainable_of
from onceedit_jax.editing.tuning import editor_of
from onceedit_jax.editors.registry import EDITORS, editor_by_name
from onceedit_jax.ensemble import Target
from onceedit_jax.errors import InputError
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import Params

T = TypeVar("T")

TRAINED = ("full", "lora", "last-n-layers")  # by gradient; their options are `EditSettings`
LOCATED = ("memit", "alphaedit")  # these change several layers
METHODS = tuple(name for name in EDITORS if name != "last-n-layers")  # of the baselines


@dataclass(frozen=True)
class MethodsSetup(Setup):
    """Methods that edit each target by itself.

    Attributes:
      methods: names, with settings that differ from the method's defaults.
      layers: for each target and method the layer, or MEMIT's and AlphaEdit's layers.
      by_target: for a target and method, further settings that differ.
      texts: number of texts that C is taken over, and of unrelated questions for WISE.
      ridge: see `editors.statistics.ridged`; AlphaEdit takes C as it is.
      prefixes: number of the texts' beginnings that ROME and MEMIT put before a prompt.
    """

    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    by_target: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    texts: int = 300
    ridge: float = 1e-3
    prefixes: int = 4


def method_cells(setup: MethodsSetup, spec: str) -> dict[str, Cell]:
    """The description of each method's edit of a target.

    Raises:
      InputError: an unknown method, or one without its layers.
    """
    found: dict[str, Cell] = {}
    for method, options in setup.methods.items():
        if method not in METHODS:
            raise InputError(f"methods: unknown {method!r}; expected some of {', '.join(METHODS)}")
        layers = setup.layers.get(spec, {}).get(method)
        if layers is None and method not in TRAINED:
            raise InputError(f"layers: none for {spec} and {method}; add one to `layers`")
        found[method] = {
            "method": method,
            "target": spec,
            "layers": layers,
            "options": {**options, **setup.by_target.get(spec, {}).get(method, {})},
            "texts": setup.texts,
            "ridge": setup.ridge,
            "prefixes": setup.prefixes,
        }
    return found


class Edited(NamedTuple):
    """An edited model, seconds of editing, and seconds of what is prepared once for a model."""

    result: EditorResult
    seconds: float
    preparation: float


def edit_target(
    workspace: Workspace,
    cell: Cell,
    target: Target,
    records: Sequence[EditRecord],
    unrelated: Sequence[str],
) -> tuple[Edited, Editor]:
    """Edit a target by a cell's method.

    Args:
      workspace: gives settings and texts.
      cell: from `method_cells`.
      target: the target.
      records: the edits.
      unrelated: prompts of the kind that locality asks, none of them evaluated, for WISE.
    """
    settings = settings_of(workspace, cell)
    editor = editor_of(settings) if cell["method"] in TRAINED else editor_of_cell(cell)
    texts = workspace.texts("odd")[: cell["texts"]]
    inputs = editor_inputs(
        records,
        target.tokenizer,
        settings,
        texts=texts,
        unrelated=unrelated[: len(texts)] if cell["method"] == "wise" else [],
    )
    return edit_alone(editor, target.model.params, target.model.config, inputs), editor


def settings_of(workspace: Workspace, cell: Cell) -> EditSettings:
    """Settings of the editing stage; they matter to methods that train."""
    if cell["method"] not in TRAINED:
        return workspace.settings()
    # A target by itself has no gate: training stops as soon as every edit is learnt.
    return workspace.settings({**cell["options"], "method": cell["method"], "gate_weight": 0.0})


def effort(editor: Editor, result: EditorResult) -> str:
    """How long a method searched or trained."""
    if editor.name in TRAINED:
        return f"{len(result.history)} epochs"
    if editor.name in ("wise", "ft-l"):
        return f"{editor.settings.epochs} epochs"
    return f"{editor.settings.steps} steps an edit"


def parameters(
    settings: EditSettings, cell: Cell, params: Params, config: ModelConfig, edits: int
) -> int:
    """How many numbers a method changes, or adds."""
    method = cell["method"]
    if method in TRAINED:
        split = jax.eval_shape(trainable_of(settings).split, params, jax.random.key(0))
        return sum(leaf.size for leaf in jax.tree.leaves(split.trainable))
    if method == "grace":
        return edits * (config.mlp_size + config.hidden_size)
    layers = len(cell["layers"]) if method in LOCATED else 1
    return layers * config.mlp_size * config.hidden_size


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
