"""What keeps clients from taking too much: sizes, times, tokens."""

import asyncio
import hmac
from collections.abc import Collection
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from onceedit_jax.serving.problems import Problem, invalid
from onceedit_jax.serving.settings import ServingSettings

R = TypeVar("R", bound=BaseModel)
HEADER_SECONDS = 10.0  # that a client may take to begin a request, and to send its head
SPARE_SECONDS = 5.0  # to read the end of an answer that took all of its time


async def read(request: Request, kind: type[R], settings: ServingSettings) -> R:
    """A request's body as a record.

    Raises:
      Problem: it is too large, too slow, no JSON, or not of the right form.
      ClientDisconnect: the client has gone.
    """
    content = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if content != "application/json":
        # A page of another site could send anything else without asking this server first.
        raise Problem(
            415,
            f"the body is {content or 'of no type'}; expected JSON: send the header "
            "'Content-Type: application/json'",
        )
    try:
        async with asyncio.timeout(settings.body_seconds):
            body = await _body(request, settings.body_bytes)
    except TimeoutError:
        raise Problem(
            408, f"the body did not come within {settings.body_seconds:g} s; send it again"
        ) from None
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None


def query_of(request: Request, kind: type[R]) -> R:
    """What a request's address asks for, as a record.

    Raises:
      Problem: it is not of the right form.
    """
    try:
        return kind.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise invalid(error) from None


async def _body(request: Request, most: int) -> bytes:
    stated = request.headers.get("content-length", "0")
    parts, size = list[bytes](), int(stated) if stated.isdecimal() else 0
    if size <= most:
        size = 0
        async for part in request.stream():
            size += len(part)
            parts.append(part)
            if size > most:
                break
    if size > most:
        raise Problem(413, f"the body has more than {most} bytes, which is the most; send less")
    return b"".join(parts)


def is_for_us(request: Request, names: Collection[str] | None) -> None:
    """Answer only requests that call the server by one of its names.

    A page of another site can have its own name lead to this machine; browsers then take what the
    server says for that site's own, but still send the name.

    Raises:
      Problem: it is called otherwise.
    """
    if names is None:
        return
    host = request.headers.get("host", "")
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        name = None
    if name not in names:
        raise Problem(
            421,
            "the Host header is none of this server's names; ask it as localhost, or start it with "
            "--names NAME",
        )


async def gone(request: Request) -> None:
    """Wait until the client has closed the connection; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def may_write(request: Request, token: str | None) -> None:
    """Let only clients that know the token change the edits.

    Raises:
      Problem: they do not, or nobody may.
    """
    if token is None:
        raise Problem(
            403,
            "the edits of this server cannot be changed; start it with --token",
            code="writing_is_off",
        )
    kind, _, sent = request.headers.get("authorization", "").partition(" ")
    same = hmac.compare_digest(sent.strip(" \t").encode("latin-1"), token.encode())
    if kind.lower() != "bearer" or not same:
        raise Problem(
            401,
            "the token is missing or wrong; send the header 'Authorization: Bearer TOKEN'",
            code="invalid_token",
        )


class PatientProtocol(H11Protocol):
    """HTTP whose patience ends: who opens a connection has to send a request's head in time.

    And who has asked has to read the answer in time. A connection that waits for its client would
    else stay open for ever, whatever the app does: what it has sent lies in the socket's buffers.

    Attributes:
      patience: seconds from a request's head to the end of its answer, see `patient`.
    """

    patience: ClassVar[float] = float("inf")
    _timer: asyncio.TimerHandle | None = None
    _deadline: asyncio.TimerHandle | None = None
    _watched: Any = None

    def connection_made(self, transport: Any) -> None:
        """Give the client time for its first request."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Give it time for the rest of a head; the app limits the time for the body."""
        super().data_received(data)
        if self._idle:
            self._wait()
        elif self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch()

    def on_response_complete(self) -> None:
        """End the answer's deadline, unless the client has not read all of it."""
        if self._deadline is not None and not self.transport.get_write_buffer_size():
            self._deadline.cancel()
        super().on_response_complete()
        self._watch()  # a request that was sent before this one was answered

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        for timer in (self._timer, self._deadline):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        """Begin to wait, unless it has begun: single bytes win no time."""
        if self._timer is None and not self.transport.is_closing():
            self._timer = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._close)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close(self) -> None:
        self._timer = None
        if self._idle:
            self.transport.abort()

    def _watch(self) -> None:
        """Give the request that is being answered its time, counted once."""
        if self._idle or self.cycle is self._watched:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._watched = self.cycle
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self.patience + SPARE_SECONDS, self.transport.abort)


def patient(seconds: float) -> type[PatientProtocol]:
    """The protocol with a time for a request and the reading of its answer."""
    return type("PatientProtocol", (PatientProtocol,), {"patience": seconds})
