"""The edited plug-in: what an edit produces, on disk and in memory."""

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from safetensors.numpy import save_file

from onceedit_jax.data.leakage import digest
from onceedit_jax.data.records import EditRecord, neutral_rows
from onceedit_jax.decoding.prefix_batching import states_after
from onceedit_jax.distributed.hosts import is_first
from onceedit_jax.distributed.mesh import mesh_of, replicate, spans_hosts
from onceedit_jax.editing.adapter_folder import (
    adapted_parts,
    write_adapter,
    write_head,
)
from onceedit_jax.editing.artifact_folder import weight_parts
from onceedit_jax.editing.artifact_info import (
    ADAPTERS,
    HEAD,
    MARK,
    PARAMS,
    TOKENIZER,
    EditInfo,
    read_info,
    write_info,
)
from onceedit_jax.editing.gate_features import PromptReader, gate_rows
from onceedit_jax.editing.ledger import adapter_numbers
from onceedit_jax.editing.relation_reading import (
    RelationReader,
    own_qualifiers,
    qualifier_bits,
    subjects_of,
)
from onceedit_jax.errors import InputError
from onceedit_jax.gates.fact import NO_HEAD, fact, fitted_fact
from onceedit_jax.gates.fact_memory import both, memory
from onceedit_jax.gates.fitting import Verdicts, fit_gate
from onceedit_jax.gates.types import FittedGate, Gate
from onceedit_jax.gates.weight_token import token
from onceedit_jax.models.adapters import (
    NO_ADAPTER,
    adapted,
    adapted_layers,
    merged,
    number_of_adapters,
    split_for,
)
from onceedit_jax.models.config import ModelConfig
from onceedit_jax.models.dtypes import ComputeDtype
from onceedit_jax.models.export import export_hf
from onceedit_jax.models.export_peft import export_peft
from onceedit_jax.models.layout import lower_part
from onceedit_jax.models.parameters import usual_compute_dtype
from onceedit_jax.storage.checkpoints import save_tree
from onceedit_jax.storage.checksums import write_sums
from onceedit_jax.storage.files import FolderKind, fresh_folder
from onceedit_jax.storage.peft_files import PEFT_CONFIG, PEFT_WEIGHTS
from onceedit_jax.storage.sources import DEMO_PREFIX
from onceedit_jax.text.qualifiers import Qualifiers
from onceedit_jax.text.tokenizer import Tokenizer
from onceedit_jax.types import Params

# A program that is killed while it writes `edit.json` leaves a hidden sibling.
ARTIFACT = FolderKind(MARK, (PARAMS, TOKENIZER, ADAPTERS, HEAD, f".{MARK}.*"))
# What `transformers` writes of a tokenizer depends on its kind and on the version.
EXPORT = FolderKind(
    "gate.safetensors",
    ("config.json", "generation_config.json", "model.safetensors", "*token*.json", "tokenizer*",
     "vocab*", "merges.txt", "*chat_template*", "*.model"),
)  # fmt: skip


PEFT = FolderKind(PEFT_CONFIG, (PEFT_WEIGHTS,))


@dataclasses.dataclass(frozen=True)
class EditedPlugin:
    """A plug-in that has learnt its edits, and when to speak.

    Attributes:
      params: the decoder's parameters after the edit, a nested dict of arrays.
      gate: `{"kernel": [D]}`, the output row of [WEIGHT].
      memory: the edits as keys, see `onceedit_jax.gates.fact_memory`.
      base_embeddings: `[V, D]`, the input embeddings BEFORE the edit: transfer tables are built
        from these, so that an edit never invalidates one.
      config: the decoder's configuration.
      tokenizer: the plug-in's tokenizer.
      info: everything else: the base model, the edits, the settings, the thresholds.
      relation: the state of the gate `fact`: `head`, `keys`, `subjects`; and `base`, the lower
        layers of the unedited model, where the edit changed them. None without a relation head.
      adapters: the factors of its adapters, see `onceedit_jax.models.adapters`; None if the edits
        are in `params`.
    """

    params: dict[str, Any]
    gate: dict[str, Any]
    memory: dict[str, Any]
    base_embeddings: jax.Array
    config: ModelConfig
    tokenizer: Tokenizer
    info: EditInfo
    relation: dict[str, Any] | None = None
    adapters: Params | None = None

    @property
    def name(self) -> str:
        """The base model's name."""
        return self.info.base.name

    @property
    def base_hash(self) -> str:
        """Content hash of the base model, the key of its transfer tables."""
        return self.info.base.content_hash

    @property
    def editing_seconds(self) -> float:
        """What its last stage took, whenever that was: texts, training, compilation, thresholds."""
        return self.info.metrics.seconds

    @property
    def gate_state(self) -> dict[str, Any]:
        """The state of the library's own gates: the memory and what was calibrated with it."""
        return {
            "words": self.memory["words"],
            "weights": self.memory["weights"],
            "threshold": jnp.float32(self.info.rule.reach_threshold),
            "evidence": jnp.float32(self.info.rule.reach_evidence),
        }

    def fitted(self, gate: Gate) -> FittedGate:
        """A gate for this plug-in: as it was fitted with the edit, or fitted now.

        Others than the artifact's are fitted on the edits' prompts and on held-back neutral texts.
        """
        rule = self.info.rule
        if self.info.in_adapters and gate in (token(), both()):
            raise InputError(
                f"{self.name}: its edits are in adapters, and no [WEIGHT] was trained for the gate "
                f"{gate.name}; use the gate fact, or edit with the method last-n-layers or full"
            )
        if gate == fact():
            if self.relation is None:
                raise InputError(f"{self.name}: {NO_HEAD}")
            return fitted_fact(self.relation, qualifier_bits(self.qualifiers))
        if gate in (token(), memory(), both()) and not self.info.in_adapters:
            return FittedGate(
                gate,
                self.gate_state,
                rule.alpha_thresholds[gate.name],
                rule.trust_thresholds[gate.name],
            )
        neutral, trained = (row.prompt for row in neutral_rows()), set(self.info.trained_texts)
        features, labels = gate_rows(
            gate.reads,
            self.records,
            self.reader,
            held_back=[text for text in neutral if digest(text) not in trained],
        )
        return fit_gate(gate, features, labels)

    @property
    def records(self) -> list[EditRecord]:
        """The edits that it holds."""
        return [entry.record(i) for i, entry in enumerate(self.info.edits)]

    @cached_property
    def qualifiers(self) -> list[Qualifiers]:
        """What each of its edits asks with, see `onceedit_jax.text.qualifiers`."""
        return own_qualifiers(self.records)

    @property
    def routes(self) -> bool:
        """Whether its edits are in several adapters, so that each prompt needs its own."""
        return self.adapters is not None and number_of_adapters(self.adapters) > 1

    def adapters_of(self, edits: Int[np.ndarray, "prompts"]) -> Int[np.ndarray, "prompts"]:
        """The adapter of prompts that ask for some edits; a single one serves every prompt.

        Args:
          edits: `[N]`, the place of the edit that each prompt asks for, `NOTHING` for none.
        """
        if self.adapters is None:
            return np.full(len(edits), NO_ADAPTER, np.int32)
        if not self.routes:
            return np.zeros(len(edits), np.int32)
        own = [NO_ADAPTER if e.adapter is None else e.adapter for e in self.info.edits]
        return np.where(edits >= 0, np.array(own, np.int32)[edits], NO_ADAPTER)

    def states_after(
        self, prefixes: Sequence[Sequence[int]], edits: Int[np.ndarray, "prefixes"]
    ) -> Float[np.ndarray, "prefixes hidden"]:
        """The final state after each prefix, `[N, D]`, by the adapter of its edit.

        Args:
          prefixes: N token sequences, none empty.
          edits: `[N]`, the place of each one's edit, `NOTHING` for none.
        """
        chosen = self.adapters_of(edits)
        states = np.zeros((len(prefixes), self.config.hidden_size), np.float32)
        params = self.params
        if self.adapters is not None:
            params = split_for(params, adapted_layers(self.adapters))
        for adapter in np.unique(chosen):
            places = np.flatnonzero(chosen == adapter)
            own = adapted(params, self.adapters, chosen[places[:1]])
            states[places] = states_after(own, self.config, [prefixes[i] for i in places.tolist()])
        return states

    @cached_property
    def reader(self) -> PromptReader:
        """What reads prompts for its gates."""
        relations = None
        if self.relation is not None:
            relations = RelationReader(
                *self._lower_layers(), self.tokenizer, subjects_of(self.records)
            )
        return PromptReader(self.params, self.gate, self.config, self.tokenizer, relations)

    def _lower_layers(self) -> tuple[dict[str, Any], ModelConfig]:
        """The lower layers of the unedited model, as its relation head reads them."""
        assert self.relation is not None and self.info.relation is not None
        params = {**self.params, **self.relation.get("base", {})}
        embed = {**params["embed"], "tokens": self.base_embeddings}
        lower, config = lower_part(
            {**params, "embed": embed}, self.config, self.info.relation.layers
        )
        mesh = mesh_of(self.params)
        return replicate(mesh, lower) if mesh.size > 1 else lower, config

    @property
    def default_gate(self) -> Gate:
        """The gate that is used where none is named: `fact`, or `both` without a relation head."""
        return both() if self.relation is None else fact()

    def verdicts(self, prompts: Sequence[str], gate: Gate | FittedGate | None = None) -> Verdicts:
        """Alpha of each prompt, and the edit that it asks for.

        Prompts that cannot open the gate cost no model a step.

        Args:
          prompts: N texts.
          gate: a gate, fitted or not (default: `default_gate`).

        Raises:
          InputError: the gate `fact`, and the plug-in was edited without a relation head.
        """
        fitted = gate if isinstance(gate, FittedGate) else self.fitted(gate or self.default_gate)
        return self.reader.verdicts(fitted.gate, fitted.state, prompts)

    def alphas(
        self, prompts: Sequence[str], gate: Gate | FittedGate | None = None
    ) -> Float[np.ndarray, "batch"]:
        """Alpha of each prompt, `[N]` float32. Arguments are those of `verdicts`."""
        return self.verdicts(prompts, gate).alphas

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
            export_hf(
                fresh, self._whole_params(), self.config, self.info.base.hf_config, dtype=dtype
            )
            self.tokenizer.save(fresh)
            save_file({"kernel": np.asarray(self.gate["kernel"])}, fresh / EXPORT.mark)
        return folder

    def export_peft(self, folder: str | Path) -> Path:
        """Write its adapter as a folder for Hugging Face's PEFT, on top of the base model.

        Args:
          folder: where to; an earlier export is replaced.

        Raises:
          InputError: if the folder holds something else; the edits are in the weights, or in
            several adapters; or the checkpoints of its family hold several matrices in one tensor.
        """
        if not self.info.in_adapters:
            raise InputError(f"{self.name}: its edits are in the weights; export these")
        if self.adapters is None:
            raise InputError(f"{self.name}: no edit answers any more; there is no adapter")
        self._check_single()
        folder = Path(folder)
        with fresh_folder(folder, PEFT) as fresh:
            # PEFT looks the base up; it reads no GGUF file.
            spec = self.info.base.spec or ""
            known = not spec.startswith(DEMO_PREFIX) and not spec.endswith(".gguf")
            export_peft(fresh, self.adapters, self.config, spec if known else "")
        return folder

    def _check_single(self) -> None:
        if self.routes and self.adapters is not None:
            raise InputError(
                f"{self.name} has its edits in {number_of_adapters(self.adapters)} adapters, and "
                "one model can hold one of them: train them together first (`onceedit compact`)"
            )

    def _whole_params(self) -> Params:
        """Parameters that hold every edit."""
        if self.adapters is None:
            return self.params
        self._check_single()
        return merged(self.params, self.adapters, 0)

    def save(self, folder: str | Path) -> Path:
        """Write the artifact: `params/` (orbax), `tokenizer/` and a readable `edit.json`.

        Where the edits are in adapters, these are written and the base model's weights are not:
        `load` reads the weights from where they were. Edits that do not answer any more, and what
        was done before, are in the folder that it was loaded from and not in it: `upkeep` keeps a
        folder current. The folder appears only when it is complete;
        an earlier artifact is replaced. Where the parameters lie over several hosts, all of them
        save it, on a file system that they share.

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
        if self.relation is not None:
            arrays["relation"] = {**self.relation, "head": self.relation["head"]._asdict()}
        with fresh_folder(folder, ARTIFACT, together=together) as fresh:
            if not self.info.in_adapters:
                save_tree(fresh / PARAMS, arrays)
            elif is_first(together):
                self._save_adapters(fresh)
            if is_first(together):
                self.tokenizer.save(fresh / TOKENIZER)
                write_sums(fresh / TOKENIZER)
                write_info(fresh, dataclasses.replace(self.info, checksums={}))
        return folder

    def _save_adapters(self, folder: Path) -> None:
        """Write each adapter with the keys of its edits, and the relation head."""
        assert self.relation is not None
        write_head(folder, self.relation["head"])
        keys = np.asarray(self.relation["keys"])
        for number in adapter_numbers(self.info.edits):
            own = [i for i, entry in enumerate(self.info.edits) if entry.adapter == number]
            factors = jax.tree.map(lambda leaf, n=number: leaf[n : n + 1], self.adapters)
            entries = [self.info.edits[i] for i in own]
            write_adapter(folder, number, factors, keys[own], entries)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        base: str | Path | None = None,
        compute_dtype: ComputeDtype | None = None,
        mesh: Mesh | None = None,
        verify: bool = True,
    ) -> "EditedPlugin":
        """Read an artifact back, whatever devices it was written on.

        Args:
          folder: the artifact.
          base: the model that was edited, for an artifact without its weights (default: the one
            that the artifact names). Artifacts of one base share it in memory.
          compute_dtype: of the operands of its matrix products, as for `load_model`.
          mesh: where its arrays shall lie (default: on one device).
          verify: check the SHA-256 of every file before its arrays are used.

        Raises:
          InputError: if the folder is no artifact, is incomplete or damaged, or is of a newer
            format; or its base model is not there, or is another one.
        """
        folder = Path(folder)
        info = read_info(folder, verify=verify)
        if info.in_adapters:
            parts = adapted_parts(folder, info, base, mesh, verify=verify)
        else:
            parts = weight_parts(folder, info, mesh, verify=verify)
        dtype = compute_dtype or usual_compute_dtype(parts["params"])
        return cls(**{**parts, "config": parts["config"].with_compute_dtype(dtype)})
