"""Every bound and address of the server, in one frozen record; this module imports no JAX."""

import dataclasses
import ipaddress
from typing import Literal

from onceedit_jax.checks import check_settings
from onceedit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServingSettings:
    """Where the server listens, who may write, and how much it takes on.

    Attributes:
      host: address to listen on; the default is for programs of this machine only.
      port: port to listen on; 0 takes a free one.
      names: further names that requests may call the server by in their Host header, such as that
        of a proxy before it. A server for this machine only answers to this machine's names, so
        that no page of another site can read from it under a name of its own.
      token: what a client has to send to add or revert edits, as in "Authorization: Bearer TOKEN".
        Without it the edits cannot be changed.
      rows: answers that are written at once; further requests wait.
      waiting: requests that wait at most; further ones are refused (429).
      context: tokens of a prompt and its answer at most.
      answer_tokens: tokens of a chat answer where the request does not say.
      seconds: that a request may take; then it ends with 504.
      body_bytes: size of a request at most (413).
      body_seconds: that a client may take to send a request (408).
      connections: open connections at most (503).
      jobs: changes of the edits that wait at most (429).
      reread_seconds: how often the folder is looked at, for edits that another program made.
      grace_seconds: that open requests may take after the server was told to stop.
      log: one line of JSON a request, on standard error: "requests" without the texts of prompts,
        "texts" with them.
      warm: compile for common lengths before the first request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    token: str | None = dataclasses.field(default=None, repr=False)
    rows: int = 16
    waiting: int = 64
    context: int = 2048
    answer_tokens: int = 256
    seconds: float = 120.0
    body_bytes: int = 1_000_000
    body_seconds: float = 10.0
    connections: int = 2000
    jobs: int = 64
    reread_seconds: float = 2.0
    grace_seconds: float = 20.0
    log: Literal["off", "requests", "texts"] = "off"
    warm: bool = True

    def __post_init__(self) -> None:
        """Refuse settings with which nothing could be served.

        Raises:
          InputError: naming the setting, its value and what was expected.
        """
        check_settings(
            self,
            above_zero=(
                "rows", "waiting", "answer_tokens", "seconds", "body_bytes",
                "body_seconds", "connections", "jobs", "reread_seconds",
            ),
            not_negative=("port", "grace_seconds"),
        )  # fmt: skip
        if self.context < 2:
            raise InputError(
                f"setting context={self.context}: expected room for a prompt and an answer, 2 or "
                "more tokens"
            )
        if self.token is not None:
            token = self.token.rstrip("\r\n")  # of a file that it was read from
            object.__setattr__(self, "token", token)
            if not token.strip():
                raise InputError("setting token: is empty; give a secret, or leave it out")
            if not (token.isascii() and token.isprintable()) or token != token.strip():
                raise InputError(
                    "setting token: clients could not send it in a header; expected printable "
                    "ASCII characters, without blanks at the ends"
                )

    @property
    def answers_to(self) -> frozenset[str] | None:
        """The names that a Host header may have; None where any will do."""
        local = self.host == "localhost" or _is_loopback(self.host)
        if not (local or self.names):
            return None
        return frozenset(
            name.lower() for name in ("localhost", "127.0.0.1", "::1", self.host, *self.names)
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
