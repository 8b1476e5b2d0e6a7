"""What requests about the edits hold, and what is told of edits and of changes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from onceedit_jax.serving.schemas import AnswerRecord, RequestRecord, Text

MOST_EDITS = 1000
Id = Annotated[int, Field(ge=1, le=2**31 - 1)]


class NewEdit(RequestRecord):
    """A fact."""

    prompt: Annotated[str, Field(min_length=1, max_length=2000)]
    target: Annotated[str, Field(min_length=1, max_length=2000)] = Field(
        description="The new answer."
    )
    subject: Annotated[str, Field(min_length=1, max_length=500)] | None = None
    aliases: Annotated[list[Text], Field(max_length=50)] = Field(default=[])
    rephrase: Text | None = None


class ChangeRequest(RequestRecord):
    """A change of the edits."""

    user: Annotated[str, Field(max_length=200)] = Field(
        default="", description="Who asks, for the ledger; it is not checked."
    )


class EditsRequest(ChangeRequest):
    """Facts to be learnt."""

    edits: Annotated[list[NewEdit], Field(min_length=1, max_length=MOST_EDITS)]
    last_wins: bool = Field(
        default=False, description="Of two that contradict each other, take the later one."
    )
    replacing: Annotated[list[Id], Field(max_length=MOST_EDITS)] = Field(
        default=[], description="Ids of edits in whose place these answer."
    )


class RevertRequest(ChangeRequest):
    """Edits to be taken back."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=MOST_EDITS)]


class EditsQuery(BaseModel):
    """Which edits to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    all: bool = Field(default=False, description="Those that do not answer any more too.")
    about: str = Field(default="", max_length=500, description="Only those that hold this text.")
    order: Literal["asc", "desc"] = Field(default="asc", description="By id; desc: newest first.")
    after: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        default=None, description="Only those that come after the edit of this id, in this order."
    )
    limit: int = Field(default=100, ge=1, le=MOST_EDITS, description="At most so many.")


class JobsQuery(BaseModel):
    """Which changes of the edits to list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open: bool = Field(default=False, description="Only those that have not ended.")
    limit: int = Field(default=100, ge=1, le=MOST_EDITS, description="At most so many.")


class Edit(AnswerRecord):
    """An edit in the ledger."""

    id: int
    prompt: str
    target: str
    subject: str | None
    aliases: list[str]
    state: Literal["live", "superseded", "reverted"]
    superseded_by: int | None
    supersedes: list[int] = Field(description="Ids of the edits that gave way to this one.")
    added: str
    source: str


class EditList(AnswerRecord):
    """The ledger, or a part of it."""

    object: Literal["list"] = "list"
    revision: int
    data: list[Edit]
    total: int = Field(description="How many there are of those that were asked for.")
    has_more: bool = Field(description="Whether more come after the last of `data`.")


class JobProgress(AnswerRecord):
    """How far the training is."""

    step: int
    steps: int
    loss: float
    reliability: float


class Job(AnswerRecord):
    """A change of the edits, which runs beside the answers."""

    id: str
    object: Literal["edit.job"] = "edit.job"
    kind: Literal["add", "revert"]
    status: Literal["queued", "running", "done", "failed"]
    created: str
    title: str = Field(description="What it changes, in a few words.")
    progress: JobProgress | None = None
    edits: list[int] = Field(default=[], description="Ids of the edits that came or went.")
    superseded: list[int] = Field(default=[], description="Ids of edits that gave way.")
    known: int = Field(default=0, description="Facts that were there already.")
    warnings: list[str] = Field(default=[])
    error: str | None = None


class JobList(AnswerRecord):
    """Changes of the edits since the server began, and those that wait, newest first."""

    object: Literal["list"] = "list"
    data: list[Job]
    total: int = Field(description="How many there are of those that were asked for.")
    has_more: bool = Field(description="Whether there are older ones: give a larger `limit`.")
