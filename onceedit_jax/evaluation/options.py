"""The options of an evaluation and of a check over files; this module imports no JAX."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onceedit_jax.errors import InputError
from onceedit_jax.models.dtypes import ComputeDtype, WeightDtype

Mode = Literal["teacher-forced", "generate", "both"]


@dataclass(frozen=True, kw_only=True)
class EnsembleOptions:
    """An edited plug-in and its targets, by name.

    Attributes:
      edited: folder of the edited plug-in.
      base: the model that was edited, for edits in adapters; None takes it from where it was.
      target: a target LLM: a folder, hub id, .gguf file or demo:NAME; repeat the flag for several.
      alpha_threshold: below this alpha a target answers alone; None takes the artifact's.
      hops: answer so many inner phrases of a question by edits first, as in "the capital of X's
        country"; it needs the gate fact.
      target_dtype: type of the targets' weights; int8 is for their matrices, with float16 for the
        embeddings and bfloat16 for the rest.
      compute_dtype: type of the operands of both models' matrix products; None takes bfloat16 for
        weights in bfloat16 or int8, unless they are on CPU, and else float32.
      mesh: how devices share the work, as in data=4,tensor=2; None gives each some of the rows.
      system: a system prompt for the targets, which are then asked in chat.
      verify: check the SHA-256 of the plug-in's files, and of weights that are kept in the cache
        folder, before they are used.
    """

    edited: Path
    target: tuple[str, ...]
    base: str | None = None
    alpha_threshold: float | None = None
    hops: int = 0
    target_dtype: WeightDtype = "float32"
    compute_dtype: ComputeDtype | None = None
    mesh: str | None = None
    system: str | None = None
    verify: bool = True


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(EnsembleOptions):
    """An evaluation of an edited plug-in through its targets.

    Attributes:
      data: file of records, or the hub name of a data set.
      out: JSON file for the summary; each record's scores go beside it as .jsonl.
      format: layout of the records: auto, or the name of a reader.
      limit: evaluate so many records, the first ones.
      mode: next tokens given the true prefix, free generation, or both.
      strip_nq: remove "nq question:" from locality prompts.
      max_new_tokens: length of the longest generated answer.
      distributed: auto, or ADDRESS:PORT,COUNT,INDEX, where several hosts share the records (or the
        models, if the mesh has all hosts' devices).
      chat: ask the targets in chat; each needs a chat template.
      part: records that are evaluated and saved at a time; an interrupted run goes on after the
        last of them. None: by the size of the targets, see `usual_part`.
    """

    data: str
    out: Path
    format: str = "auto"
    limit: int | None = None
    mode: Mode = "teacher-forced"
    strip_nq: bool = False
    max_new_tokens: int = 20
    distributed: str | None = None
    chat: bool = False
    part: int | None = None

    def __post_init__(self) -> None:
        """Refuse options that would overwrite the data, or evaluate nothing.

        Raises:
          InputError: naming the option and what to give instead.
        """
        if not self.out.name:
            raise InputError(f"--out {str(self.out)!r}: expected the name of a file")
        if Path(self.data).resolve() in (self.out.resolve(), self.records_file.resolve()):
            raise InputError(
                f"--out {self.out} would write over the data {self.data}: the records go to "
                f"{self.records_file.name} beside it; give --out another name"
            )
        if self.out.suffix == ".jsonl":
            raise InputError(
                f"--out {self.out}: the summary is one JSON value, and the records go beside it as "
                ".jsonl; give --out a name with another ending, as in results.json"
            )
        if self.part is not None and self.part < 1:
            raise InputError(f"--part {self.part}: expected at least one record in a part")

    @property
    def records_file(self) -> Path:
        """The file beside the summary that has each record's scores."""
        return records_file(self.out)


def records_file(out: Path) -> Path:
    """Where an evaluation's records go, beside its summary `out`."""
    return out.with_name(out.name.removesuffix(".json") + ".jsonl")


@dataclass(frozen=True, kw_only=True)
class CheckOptions(EnsembleOptions):
    """Questions about the edits of a plug-in: made from the edits, or your own.

    Attributes:
      questions: file of your own questions; they are asked in place of those made from the edits.
      limit: make questions about so many edits, drawn at random; None takes all.
      show: how many wrong answers of each target are printed.
      json: file for every question with its answers, and for the shares.
      chat: ask targets in chat if they have a chat template.
      seed: of what is drawn.
    """

    questions: Path | None = None
    limit: int | None = None
    show: int = 10
    json: Path | None = None
    chat: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse options that would overwrite the questions, or ask about nothing.

        Raises:
          InputError: naming the option and what to give instead.
        """
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: expected at least one edit")
        if self.limit is not None and self.questions is not None:
            raise InputError("--limit: --questions says what is asked; leave one of the two out")
        if self.json and self.questions and self.json.resolve() == self.questions.resolve():
            raise InputError(
                f"--json {self.json} would write over --questions; give --json another name"
            )
