"""`onceedit export`: an edited plug-in as a Hugging Face folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from onceedit_jax.models.dtypes import FloatDtype


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """An export of an edited plug-in.

    Attributes:
      edited: folder of the edited plug-in.
      out: folder to write.
      dtype: type of the weights.
      base: the model that was edited, for edits in adapters; None takes it from where it was.
      verify: check the SHA-256 of the plug-in's files before they are used.
      peft: write the adapter alone, for Hugging Face's PEFT, in float32.
    """

    edited: Path
    out: Path
    dtype: FloatDtype = "float32"
    base: str | None = None
    verify: bool = True
    peft: bool = False


def export(options: Annotated[ExportOptions, arg(name="")]) -> None:
    """Write an edited plug-in as a Hugging Face folder, with gate.safetensors beside it."""
    from onceedit_jax.cli.console import out
    from onceedit_jax.editing.artifact import EditedPlugin

    plugin = EditedPlugin.load(options.edited, base=options.base, verify=options.verify)
    if options.peft:
        plugin.export_peft(options.out)
    else:
        plugin.export(options.out, dtype=options.dtype)
    out.print(f"written: {options.out}")
