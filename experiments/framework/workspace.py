"""What experiments share: data sets, edited plug-ins that are kept, targets loaded once."""

import dataclasses
import hashlib
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh
from onceedit_jax.fusion.rules import PRESETS, FusionSettings

from experiments.framework.definition import Setup
from onceedit_jax.cli.progress import editing_progress, err, table_progress
from onceedit_jax.data.leakage import drop_leaks
from onceedit_jax.data.loaders import load_records, load_unrelated
from onceedit_jax.data.records import EditRecord, Pair, UnrelatedRow, without_nq
from onceedit_jax.editing.artifact import FORMAT, EditedPlugin
from onceedit_jax.editing.augmentation import training_texts
from onceedit_jax.editing.edit import edit
from onceedit_jax.editing.finalize import seal
from onceedit_jax.editing.settings import EditSettings, fingerprint
from onceedit_jax.editing.trainer import Trained
from onceedit_jax.ensemble import Ensemble, Target, load_target
from onceedit_jax.errors import InputError
from onceedit_jax.evaluation.protocol import Mode, evaluate, plugin_alone
from onceedit_jax.models.weights import LoadedModel, load_model
from onceedit_jax.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Files of a data set in the data folder.

    Attributes:
      edits: what is edited and evaluated.
      training: another split of the same kind: unedited prompts of the same form come from here,
        and the templates of paraphrases.
      unrelated: texts for the gate's other side.
      strip_nq: take "nq question:" off, in training and evaluation.
      asked: so many of `training` are evaluated, as unedited questions in the edits' form; none
        where the data set's own locality prompts have that form.
    """

    edits: str
    training: str
    unrelated: str
    strip_nq: bool = False
    asked: int = 0


DATASETS = {
    "zsre": Dataset(
        "zsre_eval.json", "zsre_train.json", "zsre_unrelated_nq.json", strip_nq=True, asked=200
    ),
    "counterfact": Dataset(
        "counterfact_edit.json", "counterfact_train.json", "counterfact_train.json"
    ),
    "mquake": Dataset("mquake_hard.json", "counterfact_train.json", "counterfact_train.json"),
}


# Cells and experiments of one process ask for the same models again and again.
_target = lru_cache(maxsize=4)(load_target)
_plugin = lru_cache(maxsize=2)(EditedPlugin.load)


class Lab:
    """Loads what a cell asks for, and keeps what another cell will ask for again."""

    def __init__(self, data: Path, work: Path, setup: Setup, mesh: Mesh | None = None) -> None:
        """Open the lab.

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
        self.evaluated = cache(self._evaluated)

    def target(self, spec: str) -> Target:
        """A target LLM, over the lab's mesh."""
        return _target(spec, mesh=self.mesh)

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
        """Unedited questions in the edits' own form, with an answer to be scored on.

        None where the data set's own locality prompts are such.

        Raises:
          InputError: there are not so many that are kept out of training.
        """
        files = _dataset(dataset)
        if not files.asked:
            return []
        if limit > files.asked:
            raise InputError(
                f"{limit} unedited questions of {dataset}: {files.asked} are kept out of training; "
                "ask for no more"
            )
        found = load_records(self.data / files.training, limit=limit)
        return [Pair(r.prompt, r.true_answers[0]) for r in found if r.true_answers]

    def _evaluated(self, dataset: str) -> list[EditRecord]:
        """Records whose questions are never trained on."""
        files = _dataset(dataset)
        asked = load_records(self.data / files.training, limit=files.asked) if files.asked else []
        return [*load_records(self.data / files.edits), *asked]

    def unrelated(self, dataset: str) -> list[UnrelatedRow]:
        """Rows for the gate's other side, none of them evaluated."""
        files = _dataset(dataset)
        rows = load_unrelated(self.data / files.unrelated)
        if files.strip_nq:
            rows = [without_nq(row) for row in rows]
        return drop_leaks(rows, self.evaluated(dataset))[0]

    def settings(self, overrides: Mapping[str, Any] = {}) -> EditSettings:
        """The editing stage: defaults, the configuration's changes, and a cell's."""
        values = {**self.setup.editing, **overrides, "seed": self.setup.seed}
        known = {field.name for field in dataclasses.fields(EditSettings)}
        if unknown := sorted(values.keys() - known):
            raise InputError(
                f"editing: no setting {unknown[0]}; there are {', '.join(sorted(known))}"
            )
        return EditSettings(**values)

    def plugin(
        self,
        dataset: str,
        settings: EditSettings,
        *,
        limit: int | None = None,
        spec: str | None = None,
    ) -> EditedPlugin:
        """The plug-in edited with a data set's first records; one that was edited so is loaded.

        Args:
          dataset: whose records, unrelated rows and examples.
          settings: of the editing stage.
          limit: number of edits (default: the configuration's).
          spec: the base model (default: the configuration's).
        """
        records, spec = self.records(dataset, limit), spec or self.setup.plugin
        edits = [[record.prompt, record.target] for record in records]
        files = _dataset(dataset)
        contents = [
            hashlib.sha256((self.data / name).read_bytes()).hexdigest()
            for name in (files.edits, files.training, files.unrelated)
        ]
        key = fingerprint(FORMAT, dataset, edits, contents, settings.as_dict(), spec)[:16]
        folder = self.work / "plugins" / f"{dataset}-{len(records)}-{key}"
        if (folder / "edit.json").exists():
            return _plugin(folder, mesh=self.mesh)
        err.print(f"editing {spec} with {len(records)} edits of {dataset}: {folder}")
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = folder.with_name(folder.name + ".checkpoint")
        edited = self.edit(
            dataset,
            records,
            settings,
            spec=spec,
            examples=self.examples(dataset),
            checkpoint=checkpoint,
            resume=True,
        )
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
        """Edit a plug-in that is not kept; `options` as for `edit`."""
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

    def seal(
        self,
        dataset: str,
        trained: Trained,
        records: Sequence[EditRecord],
        *,
        spent: float,
        seen: Collection[str] = (),
    ) -> EditedPlugin:
        """A plug-in whose parameters `edit` did not make; `spent` and `seen` as for `seal`."""
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
        # What is held back has to look like what `edit` holds back; nothing else was trained on.
        texts = dataclasses.replace(texts, paraphrases=[], varied=[], bare=[])
        return seal(model, tokenizer, trained, records, texts, settings, spent=spent, seen=seen)

    def examples(self, dataset: str) -> list[EditRecord]:
        """Records that are no edits and show how questions may be put otherwise."""
        return load_records(self.data / _dataset(dataset).training)

    def rule(self, preset: str, **changes: Any) -> FusionSettings:
        """A fusion rule: a preset with some of its axes changed."""
        return dataclasses.replace(PRESETS[preset], **changes)

    def ensemble(self, plugin: EditedPlugin, targets: Sequence[str], **options: Any) -> Ensemble:
        """An ensemble of targets that are loaded once; `options` as for `Ensemble`."""
        with table_progress() as on_block:
            return Ensemble(
                plugin,
                [self.target(spec) for spec in targets],
                mesh=self.mesh,
                on_block=on_block,
                **options,
            )

    def ruled(
        self, plugin: EditedPlugin, targets: Sequence[str], rule: Mapping[str, Any]
    ) -> Ensemble:
        """`ensemble` by a cell's rule: `preset`, changed axes, and perhaps `alpha_threshold`."""
        axes = dict(rule)
        preset, threshold = axes.pop("preset"), axes.pop("alpha_threshold", None)
        fusion = self.rule(preset, **axes)
        return self.ensemble(plugin, targets, fusion=fusion, alpha_threshold=threshold)

    def evaluate(
        self, ensemble: Ensemble, records: Sequence[EditRecord], mode: Mode = "teacher-forced"
    ) -> dict[str, Any]:
        """Scores of every target, and each record's in numbers: no text of a data set is kept."""
        found = evaluate(ensemble, records, mode=mode)
        return {
            "plugin": plugin_alone(ensemble.plugin, records).as_dict(),
            "alpha_threshold": ensemble.threshold,
            "scores": found.results,
            "records": [
                {key: value for key, value in row.items() if not key.startswith("answer")}
                for row in found.records
            ],
        }

    def form_locality(
        self, ensemble: Ensemble, dataset: str, limit: int
    ) -> list[float] | list[None]:
        """Each target's locality on unedited questions in the edits' form; None for no such."""
        pairs = self.same_form(dataset, limit)
        return self.locality(ensemble, pairs) if pairs else [None] * len(ensemble.targets)

    def locality(self, ensemble: Ensemble, pairs: Sequence[Pair]) -> list[float]:
        """Each target's agreement with itself before the edit on further questions."""
        return [
            float(np.mean([np.mean(text.before == text.after) for text in texts]))
            for texts in ensemble.score(pairs).targets
        ]


def load_edits(data: Path, dataset: str, *, limit: int | None = None) -> list[EditRecord]:
    """The edits of a data set, as experiments evaluate them."""
    files = _dataset(dataset)
    found = load_records(data / files.edits, limit=limit)
    return [without_nq(record) for record in found] if files.strip_nq else found


def _dataset(name: str) -> Dataset:
    if name not in DATASETS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(DATASETS)}")
    return DATASETS[name]
