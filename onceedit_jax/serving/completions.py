"""Requests for text as asks, and their answers in OpenAI's form, whole or in parts."""

import codecs
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from onceedit_jax.decoding.options import SamplingSettings
from onceedit_jax.serving.asking import Ask, Begun, Ended, Piece, Ranked
from onceedit_jax.serving.schemas import (
    AnswerMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    ChatRequest,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    CompletionRequest,
    Delta,
    EditNote,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from onceedit_jax.serving.service import Answers, Model
from onceedit_jax.text.tokenizer import Tokenizer

CONTINUED = 16  # tokens of a continuation where the request does not say, as OpenAI's are


def note_of(begun: Begun) -> EditNote:
    """What the plug-in had to do with an answer."""
    return EditNote(alpha=begun.alpha, edit=begun.edit, revision=begun.revision)


def usage_of(begun: Sequence[Begun], ends: Mapping[int, Ended]) -> Usage:
    """The tokens that were read and written for some answers."""
    read = sum(each.prompt_tokens for each in begun)
    written = sum(end.tokens for end in ends.values())
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


class Reply:
    """An answer to a request, in the form of its endpoint.

    Attributes:
      chat: whether it is a turn of a conversation.
      model: the name that the client asked.
    """

    def __init__(self, answers: Answers, tokenizer: Tokenizer, *, chat: bool, model: str) -> None:
        """Take answers that have begun."""
        self._answers, self._tokenizer = answers, tokenizer
        self.chat: bool = chat
        self.model: str = model
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        # Of each answer, what reads its tokens, and the characters that they have given so far.
        utf8 = codecs.getincrementaldecoder("utf-8")
        self._decoders = [utf8("replace") for _ in answers.begun]
        self._lengths = [0] * len(answers.begun)

    async def whole(self, *, ranked: bool) -> BaseModel:
        """The whole answer.

        Args:
          ranked: whether log-probabilities were asked for.

        Raises:
          Problem: an answer fails.
        """
        count = len(self._answers.begun)
        texts, ranks = [""] * count, [list[Ranked]() for _ in range(count)]
        ends: dict[int, Ended] = {}
        async for index, event in self._answers.events():
            if isinstance(event, Piece):
                texts[index] += event.text
                ranks[index] += event.tokens
            elif isinstance(event, Ended):
                ends[index] = event
        choices: list[Any] = []
        for i in range(count):
            common: dict[str, Any] = {
                "index": i,
                "finish_reason": ends[i].reason,
                "onceedit": self._note(i),
            }
            if self.chat:
                message, logprobs = AnswerMessage(content=texts[i]), self._chat_logs(ranks[i])
                shown = logprobs if ranked else None
                choices.append(ChatChoice(message=message, logprobs=shown, **common))
            else:
                shown_text = self._text_logs(ranks[i], i) if ranked else None
                choices.append(CompletionChoice(text=texts[i], logprobs=shown_text, **common))
        kind = ChatCompletion if self.chat else Completion
        return kind(**self._head, choices=choices, usage=self._usage(ends))

    async def parts(self, *, ranked: bool, usage: bool) -> AsyncIterator[dict[str, Any]]:
        """The answer in parts.

        Args:
          ranked: whether log-probabilities were asked for.
          usage: whether a last part tells the usage.

        Raises:
          Problem: an answer fails.
        """
        for i in range(len(self._answers.begun)):
            yield self._part(i, "", first=True)
        ends: dict[int, Ended] = {}
        async for index, event in self._answers.events():
            if isinstance(event, Piece):
                yield self._part(index, event.text, event.tokens if ranked else None)
            elif isinstance(event, Ended):
                ends[index] = event
                yield self._part(index, None, reason=event.reason)
        if usage:
            kind = ChatChunk if self.chat else Completion
            yield _shown(kind(**self._head, choices=[], usage=self._usage(ends)))

    def _part(
        self,
        index: int,
        text: str | None,
        ranked: Sequence[Ranked] | None = None,
        *,
        first: bool = False,
        reason: str | None = None,
    ) -> dict[str, Any]:
        common: dict[str, Any] = {
            "index": index,
            "finish_reason": reason,
            "onceedit": self._note(index) if first else None,
        }
        if self.chat:
            delta = Delta(role="assistant" if first else None, content=text)
            logs = None if ranked is None else self._chat_logs(ranked)
            choice = ChatChunkChoice(delta=delta, logprobs=logs, **common)
            return _shown(ChatChunk(**self._head, choices=[choice]))
        own = None if ranked is None else self._text_logs(ranked, index)
        part = CompletionChoice(text=text or "", logprobs=own, **common)
        return _shown(Completion(**self._head, choices=[part]))

    @property
    def _head(self) -> dict[str, Any]:
        return {"id": self._id, "created": self._created, "model": self.model}

    def _note(self, index: int) -> EditNote:
        return note_of(self._answers.begun[index])

    def _usage(self, ends: dict[int, Ended]) -> Usage:
        return usage_of(self._answers.begun, ends)

    def _bytes(self, token: int) -> bytes:
        return self._tokenizer.decode_bytes([token], continuation=True)

    def _name(self, token: int) -> str:
        """A token as text; of one that is no text its bytes, or its spelling, as in <end>."""
        data, names = self._bytes(token), self._tokenizer.vocabulary.strings
        if not data:
            return (names[token] if token < len(names) else None) or ""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:  # a part of a character
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _chat_logs(self, ranked: Sequence[Ranked]) -> ChatLogprobs:
        def shown(token: int, logprob: float) -> dict[str, Any]:
            return {
                "token": self._name(token), "logprob": logprob, "bytes": list(self._bytes(token))
            }  # fmt: skip

        content = [
            TokenLogprob(
                **shown(each.token, each.logprob),
                top_logprobs=[TopLogprob(**shown(*best)) for best in each.top],
            )
            for each in ranked
        ]
        return ChatLogprobs(content=content)

    def _offset(self, token: int, index: int) -> int:
        """Where the next token of an answer begins in its text."""
        offset = self._lengths[index]
        self._lengths[index] += len(self._decoders[index].decode(self._bytes(token)))
        return offset

    def _text_logs(self, ranked: Sequence[Ranked], index: int) -> CompletionLogprobs:
        """The next tokens of an answer, each of which is shown once."""
        offsets = [self._offset(each.token, index) for each in ranked]
        return CompletionLogprobs(
            tokens=[self._name(each.token) for each in ranked],
            token_logprobs=[each.logprob for each in ranked],
            top_logprobs=[
                {self._name(token): logprob for token, logprob in reversed(each.top)}
                for each in ranked
            ],
            text_offset=offsets,
        )


def _shown(record: BaseModel) -> dict[str, Any]:
    """A part of a stream without what is not set, but for what clients look for, null or not."""
    part = record.model_dump(mode="json", exclude_none=True)
    for choice in part["choices"]:
        choice.setdefault("finish_reason", None)
        choice.get("onceedit", {}).setdefault("edit", None)
    return part


def chat_asks(request: ChatRequest, model: Model, answer_tokens: int) -> list[Ask]:
    """What a request for a turn asks."""
    ranked = (request.top_logprobs or 0) if request.logprobs else None
    turns = [message.turn for message in request.messages]
    most = request.max_completion_tokens or request.max_tokens
    return [_ask(request, model, turns, most, usual=answer_tokens, chat=True, ranked=ranked)]


def text_asks(request: CompletionRequest, model: Model) -> list[Ask]:
    """What a request for continuations asks."""
    most, ranked = request.max_tokens, request.logprobs
    return [
        _ask(request, model, prompt, most, usual=CONTINUED, chat=False, ranked=ranked)
        for prompt in request.prompts
    ]


def _ask(
    request: ChatRequest | CompletionRequest,
    model: Model,
    prompt: Any,
    most: int | None,
    *,
    usual: int,
    chat: bool,
    ranked: int | None,
) -> Ask:
    sampling = SamplingSettings(
        request.temperature or 0.0,
        1.0 if request.top_p is None else request.top_p,
        max(request.top_k or 0, 0),
        # Without a seed every answer is drawn anew.
        secrets.randbits(63) if request.seed is None else request.seed,
    )
    return Ask(
        prompt=prompt,
        target=model.target,
        chat=chat,
        edited=model.edited,
        max_tokens=most,
        usual_tokens=usual,
        sampling=sampling,
        stops=request.stops,
        logprobs=ranked,
    )
