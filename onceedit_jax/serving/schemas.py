"""What questions and answers hold; these records check requests and make the OpenAPI document.

The shapes are those of OpenAI's interface. A field that is not here is refused by its name, and so
is a value that would change an answer in a way that this server does not know.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_PROMPTS = 64
MOST_TOP = 20  # of the likeliest tokens that a request may ask for
Text = Annotated[str, Field(min_length=1)]
Zero = Annotated[float, Field(ge=0, le=0, allow_inf_nan=False)]
Stop = Annotated[str, Field(min_length=1, max_length=200)]


class RequestRecord(BaseModel):
    """A part of a request: what it does not know is refused."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(RequestRecord):
    """What a stream holds besides."""

    include_usage: bool = False
    include_obfuscation: bool | None = Field(default=None, description="Not looked at.")


class TextFormat(RequestRecord):
    """The form of an answer."""

    type: Literal["text"]


class _Sampling(RequestRecord):
    """What requests for text have in common."""

    model: Text = Field(description="One of the names that /v1/models lists.")
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        default=None, description="0 (the default) takes the most likely token."
    )
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = Field(
        default=None, description="0 (the default) or -1 for all tokens; not in OpenAI's interface."
    )
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = Field(default=None, description="Not looked at.")

    @property
    def stops(self) -> tuple[str, ...]:
        """The texts that end an answer."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class TextPart(RequestRecord):
    """A part of a message."""

    type: Literal["text"]
    text: str


class Message(RequestRecord):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = Field(default=None, description="Not looked at.")

    @property
    def turn(self) -> dict[str, str]:
        """The turn as a chat template reads it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        return {"role": role, "content": "".join(part.text for part in self.content)}


Messages = Annotated[list[Message], Field(min_length=1, max_length=1000)]


class ChatRequest(_Sampling):
    """A conversation to be answered; the last turn is the user's."""

    messages: Messages
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="The same as max_tokens."
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = Field(
        default=None, description="Needs logprobs."
    )
    response_format: TextFormat | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    metadata: dict[str, str] | None = Field(default=None, description="Not looked at.")
    store: bool | None = Field(default=None, description="Not looked at; nothing is stored.")
    service_tier: str | None = Field(default=None, description="Not looked at.")

    @model_validator(mode="after")
    def _top_logprobs_need_logprobs(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self


class CompletionRequest(_Sampling):
    """Texts to be continued."""

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST_PROMPTS)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None
    echo: Literal[False] | None = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    @property
    def prompts(self) -> list[str]:
        """The texts."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class AnswerRecord(BaseModel):
    """A part of an answer."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)


class EditNote(AnswerRecord):
    """What the plug-in had to do with an answer; no part of OpenAI's interface."""

    alpha: float = Field(description="The plug-in's weight, by the gate.")
    edit: int | None = Field(description="Id of the edit that was meant; null for none.")
    revision: int = Field(description="How many changes the ledger had when the answer began.")


class TopLogprob(AnswerRecord):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer; log-probabilities are the target's own, before the fusion."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(AnswerRecord):
    """The tokens of a chat answer."""

    content: list[TokenLogprob]


class Usage(AnswerRecord):
    """Tokens that were read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


FinishReason = Literal["stop", "length"]


class AnswerMessage(AnswerRecord):
    """The model's turn."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(AnswerRecord):
    """An answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    onceedit: EditNote


class ChatCompletion(AnswerRecord):
    """The answer to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(AnswerRecord):
    """What a part of a stream adds."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatChunkChoice(AnswerRecord):
    """A part of an answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    onceedit: EditNote | None = None


class ChatChunk(AnswerRecord):
    """A part of a stream."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class CompletionLogprobs(AnswerRecord):
    """The tokens of a continuation."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(AnswerRecord):
    """A continuation, or a part of one."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    onceedit: EditNote | None = None


class Completion(AnswerRecord):
    """Continuations, or a part of a stream of them."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ModelCard(AnswerRecord):
    """A model that may be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(AnswerRecord):
    """The models that may be asked."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(AnswerRecord):
    """Whether the server answers."""

    status: Literal["ok", "failing"]
    revision: int
    edits: int
    writes: bool = Field(description="Whether who knows the token may change the edits.")
    writing: int = Field(description="Answers that are being written.")
    waiting: int
    problem: str | None = None


class ErrorDetail(AnswerRecord):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(AnswerRecord):
    """An error, as OpenAI's clients read it."""

    error: ErrorDetail
