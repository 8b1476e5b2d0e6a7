"""The OpenAPI document of the server, made from the records that check its requests."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from onceedit_jax.serving.schemas import ErrorBody

REASONS = {
    200: "Done.",
    202: "Accepted; the job tells how it goes on.",
    400: "The request is not one that can be answered.",
    401: "The token is missing or wrong.",
    403: "The edits of this server cannot be changed.",
    404: "There is nothing of this name.",
    408: "The body came too slowly.",
    409: "The state of the edits does not allow it.",
    413: "The body is too large.",
    415: "The body is not said to be JSON.",
    421: "The Host header is none of the server's names.",
    429: "Too much is waiting already.",
    500: "The server failed; its log says why.",
    503: "The server is being stopped, or does not work.",
    504: "The answer took too long.",
}
OF_BODIES = (400, 408, 413, 415, 429, 500, 503)
_REF = "#/components/schemas/{model}"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One thing that clients may do.

    Attributes:
      method: of HTTP.
      path: with its parameters as Starlette writes them.
      summary: what it does.
      answer: the record of the answer; None for text.
      status: of the answer.
      body: the record of the request's body; None for none.
      query: the record of its query; None for none.
      problems: statuses of errors.
      streams: whether the answer may be a stream of events.
      writes: whether it needs the token.
    """

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | None
    status: int = 200
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    problems: tuple[int, ...] = ()
    streams: bool = False
    writes: bool = False

    @property
    def records(self) -> list[tuple[type[BaseModel], JsonSchemaMode]]:
        """Its records, and whether they are read or written."""
        named: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorBody, "serialization")]
        if self.answer is not None:
            named.append((self.answer, "serialization"))
        if self.body is not None:
            named.append((self.body, "validation"))
        return named


def document(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """The OpenAPI document.

    Args:
      operations: all that clients may do.
      version: of this package.
    """
    records = list(dict.fromkeys(each for operation in operations for each in operation.records))
    references, schemas = models_json_schema(records, ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        at = paths.setdefault(_plain_path(operation.path), {})
        at[operation.method.lower()] = _described(operation, references)
    return {
        "openapi": "3.1.0",
        "info": {"title": "onceedit", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _described(operation: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    answers = {str(operation.status): _answer(operation, references)}
    error = {"application/json": {"schema": references[ErrorBody, "serialization"]}}
    statuses = {421, *operation.problems, *(OF_BODIES if operation.body else ())}
    statuses |= {401, 403} if operation.writes else set()
    for status in sorted(statuses):
        answers[str(status)] = {"description": REASONS[status], "content": error}
    described: dict[str, Any] = {"summary": operation.summary, "responses": answers}
    if parameters := [*_of_path(operation.path), *_of_query(operation.query)]:
        described["parameters"] = parameters
    if operation.body is not None:
        schema = references[operation.body, "validation"]
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    if operation.writes:
        described["security"] = [{"token": []}]
    return described


def _answer(operation: Operation, references: Mapping[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}
    if operation.answer is not None:
        schema = references[operation.answer, "serialization"]
        content = {"application/json": {"schema": schema}}
    elif operation.path.endswith(".json"):
        content = {"application/json": {"schema": {"type": "object"}}}
    if operation.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"description": REASONS[operation.status], "content": content}


def _of_path(path: str) -> list[dict[str, Any]]:
    """The parameters in a path, `{name}` or `{name:kind}`."""
    found = []
    for part in path.split("/"):
        if part.startswith("{"):
            name, _, kind = part.strip("{}").partition(":")
            text = {"type": "string", "minLength": 1}
            schema = {"type": "integer", "minimum": 0} if kind == "int" else text
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _of_query(record: type[BaseModel] | None) -> list[dict[str, Any]]:
    if record is None:
        return []
    properties = record.model_json_schema()["properties"]
    return [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]


def _plain_path(path: str) -> str:
    return path.replace(":int}", "}").replace(":path}", "}")
