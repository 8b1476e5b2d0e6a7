"""The table of what is fuzzed: a sound input, the file of it that is damaged, two readers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fuzzing import readers, samples
from fuzzing.mutators import (
    Mutator,
    bytes_of,
    head_of,
    json_lines_of,
    json_of,
    safetensors_of,
    yaml_of,
)
from fuzzing.readers import Value, never_another


@dataclass(frozen=True)
class Format:
    """One kind of file that is damaged.

    Attributes:
      sample: writes the sound input; named after it, formats share one.
      file: which file of it is damaged, a glob; one is chosen at random where there are several.
      mutate: damages its bytes.
      read: as this project reads it.
      by_others: as other libraries read it.
      whole: whether `read` takes the folder, and not the file.
    """

    sample: Callable[[Path], Path]
    file: str
    mutate: Mutator
    read: Callable[[Path], Value]
    by_others: Callable[[Path], Value]
    whole: bool = True

    @property
    def name(self) -> str:
        """The sample and its file."""
        return f"{self.sample.__name__}/{self.file}"

    def place(self, folder: Path, file: Path) -> Path:
        """What is read, of a sample in `folder` whose `file` was damaged."""
        return folder if self.whole else file


def _model(file: str, mutate: Mutator, sample: Callable[[Path], Path] = samples.model) -> Format:
    return Format(sample, file, mutate, readers.model, readers.model_by_others)


def _gguf(sample: Callable[[Path], Path]) -> Format:
    return Format(sample, "model.gguf", head_of, readers.model, readers.gguf_by_others, whole=False)


def _artifact(sample: Callable[[Path], Path], file: str, mutate: Mutator) -> Format:
    return Format(sample, file, mutate, readers.artifact, never_another)


def _records(file: str, mutate: Mutator, sample: Callable[[Path], Path] = samples.data) -> Format:
    return Format(sample, file, mutate, readers.records, readers.records_by_others, whole=False)


def _results(file: str, mutate: Mutator) -> Format:
    both = readers.report, readers.report_by_others
    return Format(samples.results, f"study/{file}", mutate, *both)


FORMATS: tuple[Format, ...] = (
    _model("config.json", json_of),
    _model("model.safetensors.index.json", json_of),
    _model("model-*.safetensors", safetensors_of),
    _model("tokenizer.json", json_of),
    _model("tokenizer_config.json", json_of),
    _model("generation_config.json", json_of),
    _model("model.safetensors", safetensors_of, samples.other_model),
    _model("tokenizer.json", json_of, samples.other_model),
    _gguf(samples.gguf_file),
    _gguf(samples.other_gguf_file),
    _artifact(samples.artifact, "edit.json", json_of),
    _artifact(samples.artifact, "**/*", bytes_of),
    _artifact(samples.adapter, "edit.json", json_of),
    _artifact(samples.adapter, "**/*", bytes_of),
    Format(
        samples.table, "*.safetensors", safetensors_of, readers.sealed, never_another,
        whole=False,
    ),
    _records("zsre_eval.json", json_of),
    _records("counterfact_edit.json", json_of),
    _records("mquake_hard.json", json_of),
    _records("qaedit.json", json_of),
    _records("edits.jsonl", json_lines_of, samples.edits),
    _records("edits.csv", bytes_of, samples.edits),
    Format(
        samples.edits, "unrelated.json", json_of, readers.unrelated, readers.unrelated_by_others,
        whole=False,
    ),
    Format(
        samples.flags, "flags.yaml", yaml_of, readers.flags, readers.flags_by_others, whole=False
    ),
    Format(
        samples.relations, "relations.yaml", yaml_of, readers.relations,
        readers.relations_by_others, whole=False,
    ),
    _results("results.json", json_of),
    _results("README.md", bytes_of),
    _results("records/*.jsonl", json_lines_of),
)  # fmt: skip
