"""`Editor`, the protocol of an editing method: a value that `edit` takes, ours or a user's own.

Two kinds of methods fit it. The first changes parameters: by gradient (`editing.tuning`) or by a
closed form (`editors`: FT-L, ROME, MEMIT, AlphaEdit). The second leaves the parameters as they are
and keeps a memory beside the model, which is read at inference (`editors`: GRACE, WISE).
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache, wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from jaxtyping import Array, Float, Int

from onceedit_jax.data.records import EditRecord, Pair
from onceedit_jax.editing.augmentation import TrainingTexts
from onceedit_jax.editing.batches import TextBatch, TrainingRow, edit_row, gate_row, text_batches
from onceedit_jax.editing.checkpoint import Checkpoint
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import Progress
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

P = ParamSpec("P")
S = TypeVar("S")


@dataclasses.dataclass(frozen=True)
class EditorInputs:
    """What an editor is given beside the model. A method uses the part that it needs.

    Attributes:
      records: the edits, all at once. Methods that write at an edit's subject need `subject`.
      tokenizer: the model's.
      settings: choices of the editing stage: the seed, and for training rates, epochs and batches.
      rows: tokens of each record: its prompt, its answer and the end-of-answer token.
      pools: rows with an edit's answer after paraphrases of its prompt; an epoch trains on one row
        of each pool.
      gate_rows: prompts that train the gate alone; empty if no gate is trained.
      texts: texts about anything, for statistics and for sentences before a prompt.
      unrelated: prompts that no edit is about.
      gate: the gate to continue from; None for an untrained one.
      checkpoint: where a method that trains saves its state; other methods leave it alone.
      on_step: a method that trains calls it after every step.
    """

    records: tuple[EditRecord, ...]
    tokenizer: Tokenizer
    settings: EditSettings
    rows: tuple[TrainingRow, ...]
    pools: tuple[tuple[TrainingRow, ...], ...] = ()
    gate_rows: tuple[TrainingRow, ...] = ()
    texts: tuple[str, ...] = ()
    unrelated: tuple[str, ...] = ()
    gate: Params | None = None
    checkpoint: Checkpoint | None = None
    on_step: Callable[[Progress], None] = lambda progress: None

    def all_rows(self) -> Iterator[TrainingRow]:
        """Every row of tokens, those of the pools too."""
        yield from self.rows
        yield from self.gate_rows
        for pool in self.pools:
            yield from pool


@dataclasses.dataclass(frozen=True)
class EditorResult:
    """What an edit makes of a model.

    Attributes:
      params: the parameters after the edit, in canonical form (one stack of layers).
      state: the memory that `Editor.read` reads; for other methods what `init` gave, if anything.
      gate: the trained gate, `{"kernel": [D]}`; None if the method trains none.
      adapters: factors of one adapter, see `models.adapters`, if the edits are there and not in
        `params`, which are then those of the model.
      history: one entry an epoch, with the names of `editing.checkpoint.HISTORY`.
      seconds: time of the edit, if it is not the time that `update` took (a resumed run).
    """

    params: Params
    state: Any = None
    gate: Params | None = None
    adapters: Params | None = None
    history: Sequence[Mapping[str, float]] = ()
    seconds: float | None = None


def no_state(params: Params, config: ModelConfig, texts: Sequence[TextBatch]) -> None:
    """`init` of an editor that prepares nothing."""


Init = Callable[[Params, ModelConfig, Sequence[TextBatch]], Any]
Update = Callable[[Any, Params, ModelConfig, EditorInputs], EditorResult]
Read = Callable[
    [Any, Params, ModelConfig, Int[Array, "B T"], Int[Array, "B T"], Int[Array, "B"]],
    Float[Array, "B T D"],
]


@dataclasses.dataclass(frozen=True)
class Editor:
    """An editing method, in the manner of optax: functions that keep nothing between two calls.

    `init` and `update` run on the host and call compiled functions; `read` runs inside `jit` too.

        def nudge(state, params, config, inputs):
            tree = jax.tree.map(lambda leaf: 1.01 * leaf, params)
            return EditorResult(tree)

        plugin = oe.edit(model, tokenizer, records, editor=Editor("nudge", nudge))

    Attributes:
      name: for reports.
      update: `(state, params, config, inputs) -> EditorResult`: make all edits at once. `params`
        are canonical and must not be changed in place.
      init: `(params, config, texts) -> state`: what is prepared once for a model, whatever the
        edits, such as statistics over texts.
      read: `(state, params, config, tokens [B, T], positions [B, T], prompt_ends [B]) -> states
        [B, T, D]`: the states after the final norm, for a method that keeps a memory beside the
        model. None if the edits are in the parameters.
      settings: a frozen record of the choices made, for reports.
      apart: whether the edits are apart from the weights and from those of earlier stages, in an
        adapter: nothing earlier is trained again, and no [WEIGHT] is trained.
    """

    name: str
    update: Update
    init: Init = no_state
    read: Read | None = None
    settings: Any = None
    apart: bool = False

    def describe(self) -> dict[str, Any]:
        """Name and settings as plain JSON values."""
        values = self.settings
        if dataclasses.is_dataclass(values) and not isinstance(values, type):
            values = dataclasses.asdict(values)
        return {"name": self.name, "settings": json.loads(json.dumps(values or {}, default=str))}


def editor_factory(
    kind: Callable[P, S],
) -> Callable[[Callable[[S], Editor]], Callable[P, Editor]]:
    """Make a function of a settings record take the record's fields instead.

    Equal settings give the same editor, so that nothing compiles twice.

        @editor_factory(MySettings)
        def mine(settings: MySettings) -> Editor:
            return Editor("mine", partial(update, settings), settings=settings)

        mine(rate=0.1) is mine(rate=0.1)

    Args:
      kind: a frozen dataclass with hashable fields.
    """

    def decorate(make: Callable[[S], Editor]) -> Callable[P, Editor]:
        cached = lru_cache(make)

        @wraps(make)
        def factory(*args: P.args, **kwargs: P.kwargs) -> Editor:
            return cached(kind(*args, **kwargs))

        fields = signature(kind).replace(return_annotation=Editor)
        setattr(factory, "__signature__", fields)  # noqa: B010 (no attribute of a function's type)
        return factory

    return decorate


def editor_inputs(
    records: Sequence[EditRecord],
    tokenizer: Tokenizer,
    settings: EditSettings = EditSettings(),  # noqa: B008 (frozen)
    *,
    augmented: TrainingTexts | None = None,
    ungated: Collection[int] = (),
    texts: Sequence[str] = (),
    unrelated: Sequence[str] = (),
    gate: Params | None = None,
    checkpoint: Checkpoint | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,
) -> EditorInputs:
    """Make an editor's inputs from records and a tokenizer.

    Args:
      records: the edits.
      tokenizer: the model's.
      settings: choices of the editing stage.
      augmented: paraphrases, and prompts for the gate. Without them no gate is trained and each
        record has its own row alone.
      ungated: positions of records that do not train the gate.
      texts: texts about anything.
      unrelated: prompts that no edit is about (default: those of `augmented`).
      gate: the gate to continue from.
      checkpoint: where a method that trains saves its state.
      on_step: progress callback.

    Raises:
      InputError: an edit is longer than `settings.max_tokens`.
    """
    limit = settings.max_tokens
    left_out = frozenset(range(len(records)) if augmented is None else ungated)

    def labelled(i: int, row: TrainingRow) -> TrainingRow:
        return dataclasses.replace(row, related=None) if i in left_out else row

    edits = (edit_row(record, tokenizer, max_tokens=limit) for record in records)
    rows = [labelled(i, row) for i, row in enumerate(edits)]
    pools, gate_rows = list[tuple[TrainingRow, ...]](), list[TrainingRow]()
    if augmented is not None:
        for i, pairs in augmented.paraphrases:
            pool = _paraphrased(records[i], pairs, tokenizer, limit)
            pools.append(tuple(labelled(i, row) for row in pool) or (rows[i],))
        gate_rows = _gate_rows(augmented, tokenizer, limit)
        unrelated = unrelated or augmented.unrelated
    return EditorInputs(
        tuple(records),
        tokenizer,
        settings,
        tuple(rows),
        tuple(pools),
        tuple(gate_rows),
        tuple(texts),
        tuple(unrelated),
        gate,
        checkpoint,
        on_step,
    )


def run_editor(
    editor: Editor, params: Params, config: ModelConfig, inputs: EditorInputs
) -> EditorResult:
    """Run `init` on `inputs.texts`, then `update`."""
    state = editor.init(params, config, text_batches(inputs.texts, inputs.tokenizer))
    return editor.update(state, params, config, inputs)


def _gate_rows(
    augmented: TrainingTexts, tokenizer: Tokenizer, max_tokens: int
) -> list[TrainingRow]:
    sides = ((augmented.varied, True), (augmented.unrelated, False))
    return [
        gate_row(prompt, tokenizer, related=related, max_tokens=max_tokens)
        for prompts, related in sides
        for prompt in prompts
    ]


def _paraphrased(
    record: EditRecord, pairs: Sequence[Pair], tokenizer: Tokenizer, max_tokens: int
) -> list[TrainingRow]:
    """Rows of a record with other prompts and answers, without those that are too long."""
    records = (dataclasses.replace(record, prompt=p.prompt, target=p.target) for p in pairs)
    rows = (edit_row(other, tokenizer, max_tokens=sys.maxsize) for other in records)
    return [row for row in rows if len(row.tokens) <= max_tokens]
