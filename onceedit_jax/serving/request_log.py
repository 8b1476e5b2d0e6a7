"""One line of JSON a request, for whoever collects logs. Texts are in it only where asked for."""

import json
import logging
import sys
from typing import Any

from starlette.types import Scope

from onceedit_jax.editing.artifact_info import now

REQUESTS = logging.getLogger("onceedit_jax.requests")
TOLD = "onceedit.told"  # in a request's scope: what its handler says of it


def log_to_stderr() -> None:
    """Write the lines to standard error, each as it is."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    REQUESTS.handlers = [handler]
    REQUESTS.propagate = False
    REQUESTS.setLevel(logging.INFO)


def tell(scope: Scope, **values: Any) -> None:
    """Say something of a request, for its line."""
    scope.setdefault(TOLD, {}).update(values)


def log_request(scope: Scope, path: str, status: int, seconds: float, *, texts: bool) -> None:
    """Write the line of a request that has ended.

    Args:
      scope: the request's.
      path: of its operation, as in /v1/edits/{edit:int}.
      status: of the answer.
      seconds: that it took.
      texts: whether the texts of prompts may be in it.
    """
    told = {key: value for key, value in scope.get(TOLD, {}).items() if texts or key != "prompts"}
    client = scope.get("client")
    values = {
        "time": now(), "client": client[0] if client else None, "method": scope["method"],
        "path": path, "status": status, "seconds": round(seconds, 4), **told,
    }  # fmt: skip
    REQUESTS.info("%s", json.dumps(values))
