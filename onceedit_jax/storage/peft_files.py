"""The folder of an adapter of Hugging Face's PEFT: which base it belongs to, and what it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onceedit_jax.errors import InputError
from onceedit_jax.storage.bounded import read_json
from onceedit_jax.storage.schema import (
    AnyOf,
    Flag,
    Integer,
    ListOf,
    Maybe,
    Number,
    Record,
    Text,
    check,
    shown,
)
from onceedit_jax.storage.sources import resolve

_IN_LAYER = re.compile(r"\.(\d+)\.", re.ASCII)
PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_REMEDY = "fetch the folder again"
_RANK = Integer(1, 1 << 16)
_LAYER = Integer(0, 1 << 16)
_MODULES = AnyOf((Text(most=4096), ListOf(Text(most=256))))
_SCHEMA = Record(
    {
        "peft_type": Text(most=64),
        "base_model_name_or_path": Maybe(Text(most=4096)),
        "r": _RANK,
        "lora_alpha": Number(1e-6, 1e6),
        "bias": Maybe(Text(most=64)),
        "fan_in_fan_out": Maybe(Flag()),
        "use_rslora": Maybe(Flag()),
        "use_dora": Maybe(Flag()),
        "modules_to_save": Maybe(ListOf(Text(most=256))),
        "target_modules": Maybe(_MODULES),
        "exclude_modules": Maybe(_MODULES),
        "layers_to_transform": Maybe(AnyOf((_LAYER, ListOf(_LAYER)))),
        "revision": Maybe(Text(most=256)),
    },
    required=("peft_type",),
)
#: What plain LoRA leaves out, and the values that say so.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "modules_to_save": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([], {}),
    # Others change the base itself, or may.
    "init_lora_weights": (True, False, "gaussian"),
    "revision": ("", "main"),
}
# These say how it was trained, or what is read elsewhere; any other key that says something may
# change what the adapter does.
_KNOWN = frozenset(
    """
    auto_mapping base_model_name_or_path task_type inference_mode peft_type peft_version r
    lora_alpha lora_dropout target_modules exclude_modules layers_to_transform layers_pattern
    use_rslora fan_in_fan_out megatron_config megatron_core qalora_group_size runtime_config
    """.split()  # noqa: SIM905
)


@dataclass(frozen=True)
class Adapter:
    """A folder of plain LoRA: `base + scale * B A` for some of the base's matrices.

    Attributes:
      folder: the adapter's.
      base: hub id, folder or file of the base model.
      rank: of the factors.
      scale: factor of the product.
      transposed: the base holds its matrices as [in, out].
      targets: names of the modules that have factors; None where a pattern says so, or nothing.
      excluded: names of modules that have none.
      layers: the layers that have factors; None for all.
    """

    folder: Path
    base: str
    rank: int
    scale: float
    transposed: bool
    targets: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None

    def has(self, module: str) -> bool:
        """Whether a module, by its name in the base, has factors as PEFT understands the file."""
        layer = _IN_LAYER.search(module)
        return (
            (self.targets is None or _is_among(module, self.targets))
            and not _is_among(module, self.excluded)
            and (self.layers is None or layer is None or int(layer[1]) in self.layers)
        )

    def base_path(self) -> Path:
        """Where the base model is; downloads it if necessary.

        Raises:
          InputError: it is nowhere, or is an adapter itself.
        """
        try:
            path = resolve(self.base)
        except InputError as error:
            raise InputError(
                f"{self.folder}: is a LoRA adapter of {shown(self.base)}, which cannot be found "
                f"({error}); {merging(self.folder)}"
            ) from error
        if is_adapter(path):
            raise InputError(
                f"{self.folder}: is a LoRA adapter of {path}, another adapter; expected a model: "
                f"{merging(self.folder)}"
            )
        return path


def merging(folder: Path) -> str:
    """What to do about an adapter that is not read."""
    merged = f"{folder}-merged"
    return (
        'merge it where the base is (python -c "from peft import AutoPeftModelForCausalLM as M; '
        f"M.from_pretrained('{folder}').merge_and_unload().save_pretrained('{merged}')\"), and "
        "save the tokenizer there too"
    )


def is_adapter(folder: Path) -> bool:
    """Whether a path is a folder of an adapter alone, without a model's weights beside it."""
    whole = ("model.safetensors", "model.safetensors.index.json")
    return (folder / PEFT_CONFIG).exists() and not any((folder / name).exists() for name in whole)


def read_adapter(folder: Path) -> Adapter | None:
    """What an adapter's folder says; None for a folder of something else.

    Raises:
      InputError: an adapter that is not plain LoRA, or does not name its base.
    """
    if not is_adapter(folder):
        return None
    values = read_json(folder / PEFT_CONFIG, inside=folder)
    check(_SCHEMA, values, file=folder / PEFT_CONFIG, remedy=_REMEDY)
    _check_plain(folder, values)
    for key in ("base_model_name_or_path", "r", "lora_alpha"):
        if not values.get(key):
            raise InputError(
                f"{folder / PEFT_CONFIG}: no {key}; expected that of a LoRA adapter: "
                f"{merging(folder)}"
            )
    rank, layers = float(values["r"]), values.get("layers_to_transform")
    return Adapter(
        folder,
        values["base_model_name_or_path"],
        values["r"],
        values["lora_alpha"] / (rank**0.5 if values.get("use_rslora") else rank),
        bool(values.get("fan_in_fan_out")),
        tuple(targets) if isinstance(targets := values.get("target_modules"), list) else None,
        tuple(excluded) if isinstance(excluded := values.get("exclude_modules"), list) else (),
        (tuple(layers) or None)
        if isinstance(layers, list)
        else None
        if layers is None
        else (layers,),
    )


def _is_among(module: str, names: Sequence[str]) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _check_plain(folder: Path, values: dict[str, Any]) -> None:
    found = {"peft_type": values["peft_type"]} if values["peft_type"] != "LORA" else {}
    for key, allowed in _PLAIN.items():
        if values.get(key) not in (None, *allowed):
            found[key] = values[key]
    for key, value in values.items():
        if key not in _PLAIN and key not in _KNOWN and value not in (None, False, [], {}):
            found[key] = value
    for key, value in found.items():
        raise InputError(
            f"{folder / PEFT_CONFIG}: {key} is {shown(value)}; expected a plain LoRA adapter: "
            f"{merging(folder)}"
        )
    if not (folder / PEFT_WEIGHTS).exists():
        raise InputError(
            f"{folder}: a LoRA adapter without {PEFT_WEIGHTS}; pickled weights are never read: "
            f"{merging(folder)}"
        )
