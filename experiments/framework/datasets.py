"""The data sets of the experiments: their files, and how each is read."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from onceedit_jax.data.loaders import load_records
from onceedit_jax.data.records import EditRecord, without_nq
from onceedit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Files of a data set in the data folder.

    Attributes:
      edits: records that are edited and evaluated.
      training: records of another split of the same form: unedited prompts and the templates of
        paraphrases come from here.
      unrelated: texts that the gate learns to stay closed on.
      strip_nq: take "nq question:" off, in training and evaluation.
      questions: this many records of `training` serve as unedited questions in the edits' form and
        are never trained on; 0 where the data set's own locality prompts have that form.
    """

    edits: str
    training: str
    unrelated: str
    strip_nq: bool = False
    questions: int = 0


DATASETS = {
    "zsre": Dataset(
        "zsre_eval.json", "zsre_train.json", "zsre_unrelated_nq.json", strip_nq=True, questions=200
    ),
    "counterfact": Dataset(
        "counterfact_edit.json", "counterfact_train.json", "counterfact_train.json"
    ),
    "mquake": Dataset("mquake_hard.json", "counterfact_train.json", "counterfact_train.json"),
}

# Of Counterfact's rephrases.
REPHRASE_KINDS = ("paraphrase prompt", "generation prompt")


def dataset_files(name: str) -> Dataset:
    """The files of a data set.

    Raises:
      InputError: there is no data set of that name.
    """
    if name not in DATASETS:
        raise InputError(f"data set {name!r}: expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


def load_edits(data: Path, dataset: str, *, limit: int | None = None) -> list[EditRecord]:
    """The edits of a data set, as experiments evaluate them."""
    files = dataset_files(dataset)
    records = load_records(data / files.edits, limit=limit)
    return [without_nq(record) for record in records] if files.strip_nq else records


def rephrase_kinds(records: Sequence[EditRecord], every: Sequence[EditRecord]) -> list[str]:
    """Which of Counterfact's two kinds of prompt the rephrase of each record is.

    Paraphrase prompts state the fact, after a sentence about something else that no other record
    has. Generation prompts were written to see whether a model's own text fits the fact: one
    wording serves many subjects, and most of them only suggest it.

    Args:
      records: some of the data set's records.
      every: all of them, so that wordings can be counted.
    """
    used = Counter(_wording(record) for record in every)
    return [REPHRASE_KINDS[used[_wording(record)] > 1] for record in records]


def _wording(record: EditRecord) -> str:
    text = record.rephrase or ""
    return text.replace(record.subject, "{}") if record.subject else text
