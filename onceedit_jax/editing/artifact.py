"""The edited plug-in: what an edit produces, on disk and in memory."""

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding
from numpy.typing import NDArray
from safetensors.numpy import save_file

from onceedit_jax.distributed.hosts import is_first
from onceedit_jax.distributed.mesh import sharding, spans_hosts
from onceedit_jax.editing.calibration import token_logits
from onceedit_jax.errors import InputError
from onceedit_jax.gates.keys import reaches
from onceedit_jax.gates.token import GateKind, gated
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.decoder import input_embeddings
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.sharding import param_shardings
from onceedit_jax.storage.checkpoints import load_tree, save_tree
from onceedit_jax.storage.files import FolderKind, fresh_folder
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

FORMAT = 4
ARTIFACT = FolderKind("edit.json", ("params", "tokenizer"))
# What `transformers` writes of a tokenizer depends on its kind and on the version.
EXPORT = FolderKind(
    "gate.safetensors",
    ("config.json", "model.safetensors", "*token*.json", "tokenizer*", "vocab*", "merges.txt",
     "*chat_template*", "*.model"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class EditedPlugin:
    """A plug-in that has learnt its edits, and when to speak.

    Attributes:
      params: the decoder's parameters after the edit, a nested dict of arrays.
      gate: `{"kernel": [D]}`, the output row of [WEIGHT].
      memory: the edits as keys, see `onceedit_jax.gates.memory`.
      base_embeddings: `[V, D]`, the input embeddings BEFORE the edit: transfer tables are built
        from these, so that an edit never invalidates one.
      config: the decoder's configuration.
      tokenizer: the plug-in's tokenizer.
      info: what `edit.json` says: base model and its hash, edits, unrelated rows' hash, settings,
        the fusion rule and thresholds fixed on held-back rows, versions, history, metrics.
    """

    params: dict[str, Any]
    gate: dict[str, Any]
    memory: dict[str, Any]
    base_embeddings: jax.Array
    config: ModelConfig
    tokenizer: Tokenizer
    info: dict[str, Any]

    @property
    def name(self) -> str:
        """The base model's name."""
        return str(self.info["base"]["name"])

    @property
    def base_hash(self) -> str:
        """Content hash of the base model, the key of its transfer tables."""
        return str(self.info["base"]["content_hash"])

    @property
    def editing_seconds(self) -> float:
        """What its last stage took, whenever that was: texts, training, compilation, thresholds."""
        return float(self.info["metrics"]["seconds"])

    def alpha_threshold(self, kind: GateKind) -> float:
        """Below this alpha a target answers by itself; fixed on held-back rows."""
        return float(self.info["rule"]["alpha_thresholds"][kind])

    def trust_threshold(self, kind: GateKind) -> float:
        """From this alpha on a draft may be taken unchecked; fixed on held-back rows."""
        return float(self.info["rule"]["trust_thresholds"][kind])

    def alphas(self, prompts: Sequence[str], kind: GateKind) -> NDArray[np.float32]:
        """Alpha of each prompt, `[N]`, by the kind of gate.

        Prompts out of every edit's reach cost the plug-in no step, unless `kind` is `token`.
        """
        rule, near = self.info["rule"], np.ones(len(prompts), bool)
        if kind != "token":
            near = reaches(self.memory, prompts) >= rule["reach_threshold"]
        logits = np.zeros(len(prompts), np.float32)
        if kind != "memory":
            chosen = np.flatnonzero(near).tolist()
            encoded = [self.tokenizer.encode(prompts[i]) for i in chosen]
            logits[chosen] = token_logits(self.params, self.gate, self.config, encoded)
        evidence = rule["reach_evidence"]
        return np.asarray(gated(kind, jnp.asarray(logits), jnp.asarray(near), evidence))

    def export(self, folder: str | Path, *, dtype: str = "float32") -> Path:
        """Write a Hugging Face folder without [WEIGHT], the tokenizer and `gate.safetensors`.

        Args:
          folder: where to; an earlier export is replaced.
          dtype: of the weights.

        Raises:
          InputError: if the folder holds something else.
        """
        folder = Path(folder)
        with fresh_folder(folder, EXPORT) as fresh:
            export_hf(fresh, self.params, self.config, self.info["base"]["hf_config"], dtype=dtype)
            self.tokenizer.save(fresh)
            save_file({"kernel": np.asarray(self.gate["kernel"])}, fresh / EXPORT.mark)
        return folder

    def save(self, folder: str | Path) -> Path:
        """Write the artifact: `params/` (orbax), `tokenizer/` and a readable `edit.json`.

        The folder appears only when it is complete; an earlier artifact is replaced. Where the
        parameters lie over several hosts, all of them save it, on a file system that they share.

        Raises:
          InputError: if the folder holds something else.
        """
        folder = Path(folder)
        together = spans_hosts(self.params)
        arrays = {
            "params": self.params,
            "gate": self.gate,
            "memory": self.memory,
            "base_embeddings": self.base_embeddings,
        }
        with fresh_folder(folder, ARTIFACT, together=together) as fresh:
            save_tree(fresh / "params", arrays)
            if is_first(together):
                self.tokenizer.save(fresh / "tokenizer")
                text = json.dumps({"format": FORMAT, **self.info}, indent=2, ensure_ascii=False)
                (fresh / ARTIFACT.mark).write_text(text + "\n", encoding="utf-8")
        return folder

    @classmethod
    def load(cls, folder: str | Path, *, mesh: Mesh | None = None) -> "EditedPlugin":
        """Read an artifact back, whatever devices it was written on.

        Args:
          folder: the artifact.
          mesh: where its arrays shall lie (default: on one device).

        Raises:
          InputError: if the folder is no artifact, is incomplete, or is of a newer format.
        """
        folder = Path(folder)
        info = read_info(folder)
        config = ModelConfig.from_dict(info["base"]["config"])
        tree = load_tree(folder / "params", partial(_layout, mesh))
        tokenizer = load_tokenizer(folder / "tokenizer")
        found, expected = input_embeddings(tree["params"]).shape, tree["base_embeddings"].shape
        if found != expected:
            raise InputError(
                f"{folder}: the embedding is {found}, edit.json and base say {expected}; edit again"
            )
        return cls(**tree, config=config, tokenizer=tokenizer, info=info)


def _layout(mesh: Mesh | None, shapes: dict[str, Any]) -> dict[str, Any]:
    """Where an artifact's arrays lie: parameters by their axes, the rest whole on every device."""
    everywhere = (
        SingleDeviceSharding(jax.local_devices()[0]) if mesh is None else sharding(mesh, ())
    )
    places = jax.tree.map(lambda _: everywhere, shapes)
    if mesh is not None:
        places["params"] = param_shardings(mesh, shapes["params"])
    return places


def read_info(folder: Path) -> dict[str, Any]:
    """What `edit.json` says, without reading any array.

    Raises:
      InputError: if there is no readable `edit.json` of this format.
    """
    path = folder / ARTIFACT.mark
    if not path.is_file():
        raise InputError(
            f"{folder}: no edited plug-in here ({ARTIFACT.mark} is missing); "
            "give the folder that `onceedit edit --out` wrote"
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
    if info.get("format") != FORMAT:
        raise InputError(
            f"{path}: artifact format {info.get('format')!r}, this version reads {FORMAT}; "
            "edit again with this version"
        )
    return dict(info)
