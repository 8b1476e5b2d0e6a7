"""Errors with an HTTP status, in the form that OpenAI's clients read."""

import logging

from pydantic import ValidationError

from onceedit_jax.errors import InputError
from onceedit_jax.serving.schemas import ErrorBody, ErrorDetail

LOG = logging.getLogger(__name__)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    504: "timeout_error",
}


class Problem(Exception):
    """A request that is not answered.

    Attributes:
      status: the HTTP status.
      message: what was found, what was expected and what to do.
      param: the field at fault.
      code: a short name of the problem.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status: int = status
        self.message: str = message
        self.param: str | None = param
        self.code: str | None = code

    @property
    def body(self) -> ErrorBody:
        """What the client gets."""
        usual = "invalid_request_error" if self.status < 500 else "server_error"
        kind = _TYPES.get(self.status, usual)
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail)


def failure(error: Exception) -> Problem:
    """The problem of an answer that cannot be written; what is no client's fault is logged."""
    if isinstance(error, InputError):
        return Problem(400, str(error))
    LOG.error("an answer could not be written", exc_info=error)
    return Problem(500, "the answer could not be written; the server's log says why")


def invalid(error: ValidationError) -> Problem:
    """The problem of a request that is no JSON, or not of the right form."""
    first, *others = error.errors(include_url=False, include_context=False, include_input=False)
    # Of a union every member is tried, and its name is a part of the place.
    param = ".".join(str(part) for part in first["loc"]) or None
    place = f"{param}: " if param else ""
    more = f" (and {len(others)} more)" if others else ""
    code = "invalid_json" if first["type"] == "json_invalid" else "invalid_value"
    return Problem(400, f"{place}{first['msg']}{more}", param=param, code=code)
