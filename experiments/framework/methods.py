"""Editing one model by itself, by each of the methods that are compared."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax

from onceedit_jax.data.records import EditRecord
from onceedit_jax.distributed.bucketing import bucket, pad_rows, row_positions
from onceedit_jax.editing.batches import edit_row
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainer import train
from onceedit_jax.editors.ftl import FTLSettings, ftl
from onceedit_jax.editors.grace import GRACESettings, grace, grace_states
from onceedit_jax.editors.layers import Edit, Rows
from onceedit_jax.editors.memit import AlphaEditSettings, MEMITSettings, alphaedit, memit
from onceedit_jax.editors.rome import rome
from onceedit_jax.editors.rows import located_edits, target_rows
from onceedit_jax.editors.statistics import ridged, second_moment
from onceedit_jax.editors.values import ValueSettings
from onceedit_jax.editors.wise import WISESettings, wise, wise_states
from onceedit_jax.evaluation.single_model import States, states_of
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import Params
from onceedit_jax.text.tokenizer import Tokenizer

T = TypeVar("T")

MAX_TOKENS = 64  # of a text that is no edit
OPENING = 8  # words at the beginning of a text that a prompt may follow
BATCH = 8


class Work(NamedTuple):
    """What a method edits, and with what.

    Attributes:
      params: of the model.
      config: of the model.
      tokenizer: of the model.
      records: the edits.
      texts: texts that are no edits: C is taken over them.
      questions: unrelated questions that WISE keeps unchanged.
      prefixes: number of the texts' beginnings that ROME and MEMIT put before a prompt.
      ridge: see `editors.statistics.ridged`; AlphaEdit takes C as it is.
      layers: the layer, or MEMIT's and AlphaEdit's layers.
      options: settings that differ from the method's defaults.
      settings: of training, for `full` and `lora`.
    """

    params: Params
    config: ModelConfig
    tokenizer: Tokenizer
    records: Sequence[EditRecord]
    texts: Sequence[str]
    questions: Sequence[str]
    prefixes: int
    ridge: float
    layers: Any
    options: Mapping[str, Any]
    settings: EditSettings


class Edited(NamedTuple):
    """An edited model: its parameters, how it reads, seconds of editing and of preparation."""

    params: Params
    states: States
    seconds: float
    preparation: float = 0.0


def train_alone(work: Work) -> Edited:
    """Fine-tune the model as `settings` say, without a gate.

    A model by itself has no gate, so that training stops as soon as every edit is learnt.
    """
    rows = [
        replace(edit_row(r, work.tokenizer, max_tokens=work.settings.max_tokens), related=None)
        for r in work.records
    ]
    return _changed(work, lambda: train(work.params, work.config, rows, work.settings).params)


def _ftl(work: Work) -> Edited:
    rows = target_rows(work.records, work.tokenizer, batch_size=BATCH)
    settings = FTLSettings(**work.options)
    return _changed(work, lambda: ftl(work.params, work.config, rows, work.layers, settings))


def _rome(work: Work) -> Edited:
    layer, settings = work.layers, ValueSettings(**work.options)
    edits, moments, preparation = _located(work, [layer], work.ridge)
    return _changed(
        work,
        lambda: rome(work.params, work.config, edits, layer, moments[layer], settings),
        preparation,
    )


def _memit(work: Work) -> Edited:
    settings = MEMITSettings(**work.options)
    edits, moments, preparation = _located(work, work.layers, work.ridge)
    return _changed(
        work, lambda: memit(work.params, work.config, edits, moments, settings), preparation
    )


def _alphaedit(work: Work) -> Edited:
    settings = AlphaEditSettings(**work.options)
    edits, moments, preparation = _located(work, work.layers, 0.0)
    return _changed(
        work, lambda: alphaedit(work.params, work.config, edits, moments, settings), preparation
    )


def _located(
    work: Work, layers: Sequence[int], ridge: float
) -> tuple[list[Edit], dict[int, jax.Array], float]:
    """The edits with their places; the second moments of each layer's keys; and their seconds."""
    batches = text_batches(work.texts, work.tokenizer)
    moments, seconds = timed(
        lambda: {
            layer: ridged(second_moment(work.params, work.config, batches, layer), ridge)
            for layer in layers
        }
    )
    prefixes = [" ".join(text.split()[:OPENING]) + "." for text in work.texts[: work.prefixes]]
    return located_edits(work.records, work.tokenizer, prefixes=prefixes), moments, seconds


def _grace(work: Work) -> Edited:
    params, config, layer = work.params, work.config, work.layers
    edits = target_rows(work.records, work.tokenizer, batch_size=1)
    settings = GRACESettings(**work.options)
    book, seconds = timed(lambda: grace(params, config, edits, layer, settings))

    def states(rows: Rows) -> jax.Array:
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        return grace_states(params, config, *place, book, layer)

    return Edited(params, states, seconds)


def _wise(work: Work) -> Edited:
    params, config, layer = work.params, work.config, work.layers
    batches = target_rows(work.records, work.tokenizer, batch_size=BATCH)
    others, settings = text_batches(work.questions, work.tokenizer), WISESettings(**work.options)
    memory, seconds = timed(lambda: wise(params, config, batches, others, layer, settings))

    def states(rows: Rows) -> jax.Array:
        place = rows.tokens, rows.positions, rows.columns[:, 0]
        return wise_states(params, config, *place, memory, layer)

    return Edited(params, states, seconds)


LOCATED: dict[str, Callable[[Work], Edited]] = {"memit": _memit, "alphaedit": _alphaedit}
METHODS: dict[str, Callable[[Work], Edited]] = {
    "full": train_alone,
    "lora": train_alone,
    "ft-l": _ftl,
    "rome": _rome,
    **LOCATED,
    "grace": _grace,
    "wise": _wise,
}


def text_batches(texts: Sequence[str], tokenizer: Tokenizer) -> list[tuple[Any, Any]]:
    """Texts that are no edits as tokens and positions `[BATCH, T]`, all of one shape."""
    rows = [tokenizer.encode(text)[:MAX_TOKENS] for text in texts]
    shape = {"width": bucket(max(map(len, rows))), "height": BATCH}
    groups = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
    return [(pad_rows(g, **shape), row_positions([len(r) for r in g], **shape)) for g in groups]


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` returns, and the seconds it took, compilation included."""
    begun = time.monotonic()
    made = jax.block_until_ready(make())
    return made, time.monotonic() - begun


def _changed(work: Work, make: Callable[[], Params], preparation: float = 0.0) -> Edited:
    """A model whose edits are in the parameters that `make` returns."""
    params, seconds = timed(make)
    return Edited(params, states_of(params, work.config), seconds, preparation)
