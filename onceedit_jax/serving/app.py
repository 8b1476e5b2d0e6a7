"""The ASGI application: paths, and what stands behind them."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from onceedit_jax.errors import OnceEditError
from onceedit_jax.serving.asking import Ask
from onceedit_jax.serving.completions import Reply, chat_asks, text_asks
from onceedit_jax.serving.edit_schemas import (
    ChangeRequest,
    Edit,
    EditList,
    EditsQuery,
    EditsRequest,
    Job,
    JobList,
    JobsQuery,
    RevertRequest,
)
from onceedit_jax.serving.explanations import (
    ExplainRequest,
    Explanation,
    explain_asks,
    explanation,
)
from onceedit_jax.serving.guards import gone, is_for_us, may_write, query_of, read
from onceedit_jax.serving.openapi import Operation, document
from onceedit_jax.serving.page import page_files
from onceedit_jax.serving.problems import Problem
from onceedit_jax.serving.request_log import log_request, tell
from onceedit_jax.serving.schemas import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    Health,
    ModelCard,
    ModelList,
)
from onceedit_jax.serving.service import Answers, Service

LOG = logging.getLogger(__name__)
PATH = "onceedit.path"  # in a request's scope: the path of its operation, for the counters
Handler = Callable[[Request], Awaitable[Response]]
_EVENT_STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def app(service: Service) -> ASGIApp:
    """The application of a service, which it starts and stops."""
    endpoints, names = Endpoints(service), service.settings.answers_to
    operations = endpoints.operations
    schema = document(list(operations), version("onceedit-jax"))
    routes = [
        Route(operation.path, _guarded(operation.path, handler, names), methods=[operation.method])
        for operation, handler in operations.items()
    ]
    # What is no part of the interface: its description, and the page, which is for people.
    beside = {"/openapi.json": JSONResponse(schema), **page_files()}
    routes += [Route(path, _guarded(path, _always(file), names)) for path, file in beside.items()]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.stop()

    built = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: _not_found, Exception: _failed},
    )
    return _Counted(built, service)


class Endpoints:
    """What stands behind each path."""

    def __init__(self, service: Service) -> None:
        """Take the service."""
        self.service: Service = service

    @property
    def operations(self) -> dict[Operation, Handler]:
        """All that clients may do."""
        asked = (404, 504)
        return {
            Operation("GET", "/v1/models", "The models that may be asked.", ModelList): self.models,
            Operation(
                "GET", "/v1/models/{model:path}", "One of them.", ModelCard, problems=(404,)
            ): self.model,
            Operation(
                "POST", "/v1/chat/completions", "Answer a conversation.", ChatCompletion,
                body=ChatRequest, problems=asked, streams=True,
            ): self.chat,
            Operation(
                "POST", "/v1/completions", "Continue texts.", Completion,
                body=CompletionRequest, problems=asked, streams=True,
            ): self.text,
            Operation(
                "POST", "/v1/explain", "Answer before and after the edits, and say why.",
                Explanation, body=ExplainRequest, problems=asked,
            ): self.explain,
            Operation(
                "GET", "/v1/edits", "The ledger.", EditList, query=EditsQuery, problems=(400,)
            ): self.edits,
            Operation(
                "POST", "/v1/edits", "Learn facts, beside the answers.", Job, 202,
                body=EditsRequest, problems=(404, 409), writes=True,
            ): self.add,
            Operation(
                "POST", "/v1/edits/revert", "Take edits back.", Job, 202,
                body=RevertRequest, problems=(404, 409), writes=True,
            ): self.revert,
            Operation(
                "GET", "/v1/edits/jobs", "Changes of the edits.", JobList,
                query=JobsQuery, problems=(400,),
            ): self.jobs,
            Operation(
                "GET", "/v1/edits/jobs/{job}", "One of them.", Job, problems=(404,)
            ): self.job,
            Operation(
                "GET", "/v1/edits/{edit:int}", "An edit.", Edit, problems=(404,)
            ): self.edit,
            Operation(
                "DELETE", "/v1/edits/{edit:int}", "Take an edit back.", Job, 202,
                problems=(404, 409, 429, 500, 503), writes=True,
            ): self.delete,
            Operation(
                "GET", "/health", "Whether the server works.", Health, problems=(503,)
            ): self.health,
            Operation("GET", "/metrics", "Counters, for Prometheus.", None): self.metrics,
        }  # fmt: skip

    async def models(self, request: Request) -> Response:
        """`GET /v1/models`."""
        return _shown(ModelList(data=self.service.models))

    async def model(self, request: Request) -> Response:
        """`GET /v1/models/{model}`."""
        name = request.path_params["model"]
        self.service.model(name)
        return _shown(next(card for card in self.service.models if card.id == name))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        settings = self.service.settings
        asked = await read(request, ChatRequest, settings)
        asks = chat_asks(asked, self.service.model(asked.model), settings.answer_tokens)
        return await self._answer(request, asked, asks, chat=True)

    async def text(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        asked = await read(request, CompletionRequest, self.service.settings)
        asks = text_asks(asked, self.service.model(asked.model))
        return await self._answer(request, asked, asks, chat=False)

    async def explain(self, request: Request) -> Response:
        """`POST /v1/explain`."""
        settings = self.service.settings
        asked = await read(request, ExplainRequest, settings)
        asks = explain_asks(asked, self.service.model(asked.model), settings.answer_tokens)
        answers = Answers(self.service, asks)
        tell(request.scope, model=asked.model, prompts=[asks[0].prompt])
        try:
            told = await _unless_gone(request, explanation(answers, asked.model))
            tell(request.scope, edits=[told.onceedit.edit], prompt_tokens=told.usage.prompt_tokens)
            return _shown(told)
        finally:
            answers.give_up()

    async def edits(self, request: Request) -> Response:
        """`GET /v1/edits`."""
        return _shown(self.service.edits(query_of(request, EditsQuery)))

    async def edit(self, request: Request) -> Response:
        """`GET /v1/edits/{edit}`."""
        return _shown(self.service.edit(request.path_params["edit"]))

    async def add(self, request: Request) -> Response:
        """`POST /v1/edits`."""
        may_write(request, self.service.settings.token)
        asked = await read(request, EditsRequest, self.service.settings)
        return _shown(
            await asyncio.to_thread(self.service.keeper.add, asked, _by(request, asked)), 202
        )

    async def revert(self, request: Request) -> Response:
        """`POST /v1/edits/revert`."""
        may_write(request, self.service.settings.token)
        asked = await read(request, RevertRequest, self.service.settings)
        return await self._reverted(request, asked)

    async def delete(self, request: Request) -> Response:
        """`DELETE /v1/edits/{edit}`."""
        may_write(request, self.service.settings.token)
        number = self.service.edit(request.path_params["edit"]).id
        return await self._reverted(request, RevertRequest(ids=[number]))

    async def _reverted(self, request: Request, asked: RevertRequest) -> Response:
        by = _by(request, asked)
        return _shown(await asyncio.to_thread(self.service.keeper.revert, asked, by), 202)

    async def jobs(self, request: Request) -> Response:
        """`GET /v1/edits/jobs`."""
        return _shown(self.service.jobs(query_of(request, JobsQuery)))

    async def job(self, request: Request) -> Response:
        """`GET /v1/edits/jobs/{job}`."""
        return _shown(self.service.keeper.job(request.path_params["job"]))

    async def health(self, request: Request) -> Response:
        """`GET /health`."""
        health = self.service.health
        if health.status != "ok":
            raise Problem(503, health.problem or "the server does not work")
        return _shown(health)

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`."""
        text = self.service.metrics_text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _answer(
        self,
        request: Request,
        asked: ChatRequest | CompletionRequest,
        asks: list[Ask],
        *,
        chat: bool,
    ) -> Response:
        """Answers to a request, whole or as a stream; the client may leave at any time."""
        answers = Answers(self.service, asks)
        tell(request.scope, model=asked.model, prompts=[ask.prompt for ask in asks])
        tokenizer = self.service.targets[asks[0].target].tokenizer
        ranked = asks[0].logprobs is not None
        try:
            await _unless_gone(request, answers.begin())
            reply = Reply(answers, tokenizer, chat=chat, model=asked.model)
            tell(
                request.scope,
                edits=[begun.edit for begun in answers.begun],
                prompt_tokens=sum(begun.prompt_tokens for begun in answers.begun),
            )
            if asked.stream:
                options = asked.stream_options
                usage = options is not None and options.include_usage
                return _Stream(_events(reply.parts(ranked=ranked, usage=usage)), answers)
            return _shown(await _unless_gone(request, reply.whole(ranked=ranked)))
        except BaseException:
            answers.give_up()
            raise


class _Stream(StreamingResponse):
    """A stream of events; whatever ends it, the answers are given up."""

    def __init__(self, events: AsyncIterator[str], answers: Answers) -> None:
        super().__init__(events, media_type="text/event-stream", headers=_EVENT_STREAM)
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except ClientDisconnect:
            tell(scope, left=True)
            raise
        finally:
            self._answers.give_up()


async def _events(parts: AsyncIterator[dict[str, Any]]) -> AsyncIterator[str]:
    try:
        async for part in parts:
            yield f"data: {json.dumps(part, ensure_ascii=False)}\n\n"
    except Problem as problem:
        yield f"data: {problem.body.model_dump_json()}\n\n"
    else:
        yield "data: [DONE]\n\n"


async def _unless_gone(request: Request, work: Awaitable[Any]) -> Any:
    """The result of some work, which ends when the client leaves.

    Raises:
      ClientDisconnect: it has left.
    """
    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone(request))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _by(request: Request, asked: ChangeRequest) -> str:
    """Who changes the edits, for the ledger: the name that is given, and the address."""
    place = request.client.host if request.client else "unknown"
    return f"{asked.user}, over HTTP from {place}" if asked.user else f"over HTTP from {place}"


def _always(response: Response) -> Handler:
    async def handler(request: Request) -> Response:
        return response

    return handler


def _guarded(path: str, handler: Handler, names: Collection[str] | None) -> Handler:
    async def guarded(request: Request) -> Response:
        request.scope[PATH] = path
        try:
            is_for_us(request, names)
            return await handler(request)
        except Problem as problem:
            return _problem(problem)
        except ClientDisconnect:
            tell(request.scope, left=True)
            return Response(status_code=400)  # nobody reads it
        except OnceEditError as error:
            LOG.exception("a request failed")
            return _problem(Problem(500, str(error)))

    return guarded


def _shown(record: BaseModel, status: int = 200) -> Response:
    return Response(record.model_dump_json(), status, media_type="application/json")


def _problem(problem: Problem, headers: Any = None) -> Response:
    response = _shown(problem.body, problem.status)
    response.headers.update(headers or {})
    if problem.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 429:
        response.headers["Retry-After"] = "1"
    if problem.status in (408, 413):  # the rest of the body is not read
        response.headers["Connection"] = "close"
    return response


async def _not_found(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    place = f"{request.method} {request.url.path}"
    problem = Problem(error.status_code, f"{place}: {error.detail}; /openapi.json lists the paths")
    return _problem(problem, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    return _problem(Problem(500, "the server failed; its log says why"))


class _Counted:
    """Counts and logs requests, and how long they take."""

    def __init__(self, inner: ASGIApp, service: Service) -> None:
        self._inner, self._metrics, self._log = inner, service.metrics, service.settings.log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._inner(scope, receive, counted)
        finally:
            path = scope.get(PATH, "other")
            self._metrics.requests.labels(path, str(status)).inc()
            seconds = time.monotonic() - begun
            self._metrics.seconds.labels(path).observe(seconds)
            if self._log != "off":
                log_request(scope, path, status, seconds, texts=self._log == "texts")
