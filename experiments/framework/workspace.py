"""What the cells of an experiment work with: data sets, edited plug-ins, targets, ensembles."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from experiments.framework.datasets import dataset_files, load_edits
from experiments.framework.definition import Setup
from experiments.framework.systems import Alone
from onceedit_jax import gates
from onceedit_jax.cli.console import err
from onceedit_jax.cli.progress import editing_progress, table_progress
from onceedit_jax.data.leakage import drop_leaks
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow, without_nq
from onceedit_jax.editing.artifact import EditedPlugin
from onceedit_jax.editing.artifact_info import FORMAT
from onceedit_jax.editing.augmentation import training_texts
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.finalize import finalize_artifact
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.ensemble import Ensemble, Target, load_target
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import Mode, evaluate, plugin_alone
from onceedit_jax.fusion.registry import named_rule, rule_by_name
from onceedit_jax.fusion.settings import SearchSettings
from onceedit_jax.gates.registry import gate_by_name
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer

# What configurations name is what differs from these: the paper's way of training, with the numbers
# that it leaves open as they were when the first pages were measured.
USUAL = EditSettings(
    method="full",
    learning_rate=1e-4,
    batch_size=16,
    epochs=12,
    paraphrase_ratio=2.0,
    form_share=0.5,
)
Rule = Mapping[str, Any]  # a rule in a cell's description: `preset`, and the axes that differ

# Cells and experiments of one process use the same models again and again.
_target = lru_cache(maxsize=4)(load_target)
_plugin = lru_cache(maxsize=2)(EditedPlugin.load)


def rule_of(rule: Rule) -> dict[str, Any]:
    """The options of `Ensemble` for a rule in a cell's description.

    Cells hold names and numbers only, and their descriptions do not change when the library's
    classes do. This is the one place where they become values of the library.

    Args:
      rule: `preset` (draft, vocabulary, relative or deepen), what differs from it (`gate`,
        `weight`, `fixed_alpha`, `normalization`, `start`, `target`, `search`, `gradient`,
        `confidence`, `trust`), and perhaps `alpha_threshold`.
    """
    axes = dict(rule)
    preset, threshold = axes.pop("preset"), axes.pop("alpha_threshold", None)
    usual = named_rule(preset).gate or "both"
    weight = axes.pop("weight", "fixed" if usual == "fixed" else "gate")
    gate = axes.pop("gate", "both" if usual == "fixed" else usual)
    gate = gates.fixed(axes.pop("fixed_alpha", 0.5)) if weight == "fixed" else gate_by_name(gate)
    if "target" in axes:
        axes["objective"] = axes.pop("target")
    if "gradient" in axes:
        axes["gradient"] = SearchSettings(**axes["gradient"])
    return {"rule": rule_by_name(preset, axes), "gate": gate, "alpha_threshold": threshold}


class Workspace:
    """Loads the models and data of a cell, and keeps what another cell will use again."""

    def __init__(self, data: Path, work: Path, setup: Setup, mesh: Mesh | None = None) -> None:
        """Open the workspace.

        Args:
          data: folder of the data sets.
          work: folder of the edited plug-ins.
          setup: the experiment's configuration.
          mesh: how devices share the work (default: all of them the rows of a batch).

        Raises:
          InputError: there is no such data folder.
        """
        if not data.is_dir():
            raise InputError(f"{data}: no such folder; give the folder of the data sets (--data)")
        self.data, self.work, self.setup, self.mesh = data, work, setup, mesh
        self.records = cache(self._records)
        self.base = cache(self._base)
        self.alone = cache(self._alone)
        self.evaluated = cache(self._evaluated)

    def target(self, spec: str) -> Target:
        """A target LLM, over the workspace's mesh."""
        return _target(spec, mesh=self.mesh)

    def _alone(self, spec: str) -> Alone:
        target = self.target(spec)
        return Alone(target, target.model.params)

    def _records(self, dataset: str, limit: int | None = None) -> list[EditRecord]:
        return load_edits(self.data, dataset, limit=limit or self.setup.limit)

    def _base(self, spec: str) -> tuple[LoadedModel, Tokenizer]:
        tokenizer = load_tokenizer(spec)
        model = load_model(spec, num_tokens=len(tokenizer.vocabulary), mesh=self.mesh)
        return model, tokenizer

    def texts(self, parity: Literal["even", "odd"]) -> list[str]:
        """Texts about anything: even ones measure forgetting, odd ones may be used in editing."""
        rows = load_unrelated(self.data / "me_ppl.json")
        return [row.prompt for row in rows[parity == "odd" :: 2]]

    def same_form(self, dataset: str, limit: int) -> list[Pair]:
        """Unedited questions in the edits' own form, each with an answer to be scored on.

        None where the data set's own locality prompts have that form.

        Raises:
          InputError: more are asked for than are kept out of training.
        """
        files = dataset_files(dataset)
        if not files.questions:
            return []
        if limit > files.questions:
            raise InputError(
                f"{limit} unedited questions of {dataset}: only {files.questions} are kept out of "
                "training; lower the number"
            )
        records = load_records(self.data / files.training, limit=limit)
        return [Pair(r.prompt, r.true_answers[0]) for r in records if r.true_answers]

    def _evaluated(self, dataset: str) -> list[EditRecord]:
        """Records whose questions are never trained on."""
        files = dataset_files(dataset)
        questions: list[EditRecord] = []
        if files.questions:
            questions = load_records(self.data / files.training, limit=files.questions)
        return [*load_records(self.data / files.edits), *questions]

    def unrelated(self, dataset: str) -> list[UnrelatedRow]:
        """Rows that the gate learns to stay closed on, none of them evaluated."""
        files = dataset_files(dataset)
        rows = load_unrelated(self.data / files.unrelated)
        if files.strip_nq:
            rows = [without_nq(row) for row in rows]
        return drop_leaks(rows, self.evaluated(dataset))[0]

    def examples(self, dataset: str) -> list[EditRecord]:
        """Records that are not edited, which show how a question can be worded."""
        return load_records(self.data / dataset_files(dataset).training)

    def settings(self, overrides: Mapping[str, Any] = {}) -> EditSettings:
        """The settings of an edit: `USUAL`, the configuration's changes, then a cell's."""
        values = {**self.setup.editing, **overrides, "seed": self.setup.seed}
        known = {field.name for field in dataclasses.fields(EditSettings)}
        if unknown := sorted(values.keys() - known):
            raise InputError(
                f"editing: unknown setting {unknown[0]!r}; expected some of "
                f"{', '.join(sorted(known))}"
            )
        return dataclasses.replace(USUAL, **values)

    def plugin(
        self,
        dataset: str,
        settings: EditSettings,
        *,
        limit: int | None = None,
        spec: str | None = None,
    ) -> EditedPlugin:
        """The plug-in edited with a data set's first records, loaded if it was edited before.

        Args:
          dataset: whose records, unrelated rows and examples.
          settings: of the edit.
          limit: number of edits (default: the configuration's).
          spec: the base model (default: the configuration's).
        """
        records, spec = self.records(dataset, limit), spec or self.setup.plugin
        edits = [[record.prompt, record.target] for record in records]
        files = dataset_files(dataset)
        contents = [
            hashlib.sha256((self.data / name).read_bytes()).hexdigest()
            for name in (files.edits, files.training, files.unrelated)
        ]
        key = fingerprint(FORMAT, dataset, edits, contents, settings.as_dict(), spec)[:16]
        make = partial(
            self.edit, dataset, records, settings, spec=spec, examples=self.examples(dataset)
        )
        return self._kept(f"{dataset}-{len(records)}-{key}", make)

    def edit_alone(
        self, records: Sequence[EditRecord], settings: EditSettings, *, spec: str | None = None
    ) -> EditedPlugin:
        """The plug-in edited with the records alone, as by a user who has nothing else."""
        spec = spec or self.setup.plugin
        edits = [[record.prompt, record.target, record.subject] for record in records]
        key = fingerprint(FORMAT, edits, settings.as_dict(), spec)[:16]

        def make(**checkpoint: Any) -> EditedPlugin:
            with editing_progress() as on_step:
                return edit(
                    *self.base(spec),
                    records,
                    settings=settings,
                    mesh=self.mesh,
                    on_step=on_step,
                    **checkpoint,
                )

        return self._kept(f"alone-{len(records)}-{key}", make)

    def _kept(self, name: str, make: Callable[..., EditedPlugin]) -> EditedPlugin:
        """An edited plug-in, loaded if it was made before; `make` continues from a checkpoint."""
        folder = self.work / "plugins" / name
        if (folder / "edit.json").exists():
            return _plugin(folder, mesh=self.mesh)
        err.print(f"editing: {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = folder.with_name(folder.name + ".checkpoint")
        edited = make(checkpoint=checkpoint, resume=True)
        edited.save(folder)
        shutil.rmtree(checkpoint, ignore_errors=True)
        return edited

    def edit(
        self,
        dataset: str,
        records: Sequence[EditRecord],
        settings: EditSettings,
        *,
        spec: str | None = None,
        unrelated: Sequence[UnrelatedRow] | None = None,
        **options: Any,
    ) -> EditedPlugin:
        """Edit a plug-in that is not saved; `options` as for `onceedit_jax.edit`."""
        with editing_progress() as on_step:
            return edit(
                *self.base(spec or self.setup.plugin),
                records,
                self.unrelated(dataset) if unrelated is None else unrelated,
                settings,
                evaluated=self.evaluated(dataset),
                mesh=self.mesh,
                on_step=on_step,
                **options,
            )

    def finalize(
        self,
        dataset: str,
        trained: Trained,
        records: Sequence[EditRecord],
        *,
        seconds: float,
        seen: Collection[str] = (),
    ) -> EditedPlugin:
        """A plug-in of parameters that `edit` did not make.

        Args:
          dataset: whose unrelated rows calibrate the gate.
          trained: the parameters and the gate.
          records: the edits that the parameters hold.
          seconds: of editing.
          seen: digests of texts that earlier edits trained on.
        """
        (model, tokenizer), settings = self.base(self.setup.plugin), self.settings()
        texts = training_texts(
            model,
            tokenizer,
            records,
            self.unrelated(dataset),
            settings,
            examples=self.examples(dataset),
            evaluated=self.evaluated(dataset),
            seen=seen,
        )
        # The rows held back have to be those that `edit` holds back; no others were trained on.
        texts = dataclasses.replace(texts, paraphrases=[], varied=[], bare=[])
        return finalize_artifact(
            model, tokenizer, trained, records, texts, settings, spent=seconds, seen=seen
        )

    def ensemble(
        self,
        plugin: EditedPlugin,
        targets: Sequence[str],
        rule: Rule | None = None,
        **options: Any,
    ) -> Ensemble:
        """An ensemble of targets that are loaded once, asked in plain text.

        Args:
          plugin: the edited plug-in.
          targets: names or folders of the target LLMs.
          rule: as in a cell's description (default: the artifact's own rule).
          options: as for `Ensemble`.
        """
        with table_progress() as on_block:
            return Ensemble(
                plugin,
                [self.target(spec) for spec in targets],
                chat=False,
                mesh=self.mesh,
                on_block=on_block,
                **(rule_of(rule) if rule else {}),
                **options,
            )

    def evaluate(
        self, ensemble: Ensemble, records: Sequence[EditRecord], mode: Mode = "teacher-forced"
    ) -> dict[str, Any]:
        """Scores of every target, and each record's in numbers, without any text of a data set."""
        evaluation = evaluate(ensemble, records, mode=mode)
        return {
            "plugin": plugin_alone(ensemble.plugin, records).as_dict(),
            "alpha_threshold": ensemble.threshold,
            "scores": evaluation.results,
            "records": [
                {key: value for key, value in row.items() if not key.startswith("answer")}
                for row in evaluation.records
            ],
        }

    def form_locality(
        self, ensemble: Ensemble, dataset: str, limit: int
    ) -> list[float] | list[None]:
        """Each target's locality on unedited questions in the edits' form; None without such."""
        pairs = self.same_form(dataset, limit)
        return self.locality(ensemble, pairs) if pairs else [None] * len(ensemble.targets)

    def locality(self, ensemble: Ensemble, pairs: Sequence[Pair]) -> list[float]:
        """Each target's agreement with itself before the edit on further questions."""
        return [
            float(np.mean([np.mean(text.before == text.after) for text in texts]))
            for texts in ensemble.score(pairs).targets
        ]
