"""Editors that train by gradient: the plug-in's own way, and the only one that trains a gate."""

import dataclasses
from functools import lru_cache, partial
from typing import Any

from onceedit_jax.editing.editor import Editor, EditorInputs, EditorResult, editor_factory
from onceedit_jax.editing.settings import EditSettings
from onceedit_jax.editing.trainable import (
    AdapterSettings,
    LastLayersSettings,
    LoRASettings,
    Trainable,
    adapters,
    all_parameters,
    low_rank,
    trainable_of,
    upper_layers,
)
from onceedit_jax.editing.trainer import train
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.types import Params


@lru_cache
def trained(trainable: Trainable) -> Editor:
    """An editor that trains a part of the parameters, by the rows and settings of its inputs.

    Args:
      trainable: which part; `full`, `lora` and `last_layers` are such editors.
    """
    update = partial(_update, trainable)
    apart = isinstance(trainable.settings, AdapterSettings)
    return Editor(trainable.name, update, settings=trainable.settings, apart=apart)


def full() -> Editor:
    """Train every parameter, as the paper does (ONCE EDIT, section 3.1)."""
    return trained(all_parameters())


@editor_factory(LoRASettings)
def lora(settings: LoRASettings) -> Editor:
    """Train low-rank factors of every layer matrix. Takes the fields of `LoRASettings`."""
    return trained(low_rank(settings))


@editor_factory(AdapterSettings)
def adapter(settings: AdapterSettings) -> Editor:
    """Train an adapter beside the model's weights. Takes the fields of `AdapterSettings`."""
    return trained(adapters(settings))


@editor_factory(LastLayersSettings)
def last_layers(settings: LastLayersSettings) -> Editor:
    """Train the last layers. Takes the fields of `LastLayersSettings`."""
    return trained(upper_layers(settings))


def editor_of(settings: EditSettings) -> Editor:
    """The editor that `settings.method` names."""
    return trained(trainable_of(settings))


def recorded_settings(editor: Editor, settings: EditSettings) -> dict[str, Any]:
    """Settings of the editing stage as an artifact records them.

    `method`, and the sizes that belong to it, agree with the editor.
    """
    own = editor.settings
    if isinstance(own, LoRASettings):
        settings = dataclasses.replace(settings, lora_rank=own.rank, lora_alpha=own.alpha)
    elif isinstance(own, AdapterSettings):
        settings = dataclasses.replace(settings, adapter_rank=own.rank, last_layers=own.layers)
    elif isinstance(own, LastLayersSettings):
        settings = dataclasses.replace(settings, last_layers=own.count)
    return {**settings.as_dict(), "method": editor.name}


def _update(
    trainable: Trainable, state: None, params: Params, config: ModelConfig, inputs: EditorInputs
) -> EditorResult:
    result = train(
        params,
        config,
        [*inputs.rows, *inputs.gate_rows],
        inputs.settings,
        trainable=trainable,
        gate=inputs.gate,
        pools=inputs.pools,
        checkpoint=inputs.checkpoint,
        on_step=inputs.on_step,
    )
    # Epochs carry their own time: some may be of an earlier run that was interrupted.
    seconds = sum(entry["seconds"] for entry in result.history)
    return EditorResult(
        result.params,
        # [WEIGHT] would have to be read with an adapter, before it is known which one.
        gate=None if result.adapters else result.gate,
        adapters=result.adapters,
        history=result.history,
        seconds=seconds,
    )
