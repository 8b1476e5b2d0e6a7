"""The OpenAPI document is true: requests made from it are answered as it says."""

import contextlib
import shutil

import pytest
from serving.conftest import TOKEN

schemathesis = pytest.importorskip("schemathesis")

import httpx2  # noqa: E402
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis.errors import Unsatisfiable  # noqa: E402
from schemathesis import GenerationMode  # noqa: E402
from schemathesis.checks import not_a_server_error  # noqa: E402
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance,
    response_schema_conformance,
]  # fmt: skip


POSTED = (
    "/v1/chat/completions", "/v1/completions", "/v1/explain", "/v1/edits", "/v1/edits/revert"
)  # fmt: skip
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def document(serving, artifact, tmp_path_factory):
    """The document of a server whose edits may be changed."""
    folder = shutil.copytree(artifact, tmp_path_factory.mktemp("asked") / "plugin")
    with serving(folder, token=TOKEN, context=60, answer_tokens=4) as server:
        yield schemathesis.openapi.from_url(f"{server.url}/openapi.json")


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_no_request_made_from_the_document_is_answered_otherwise(document, mode):
    asked = set()
    for found in document.get_all_operations():
        operation = found.ok()

        @settings(max_examples=10, suppress_health_check=list(HealthCheck), database=None)
        @given(operation.as_strategy(generation_mode=mode))
        def ask(case):
            headers = {"Authorization": f"Bearer {TOKEN}"}
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)
            asked.add(case.operation.label)

        with contextlib.suppress(Unsatisfiable):  # nothing can be wrong about some requests
            ask()
    assert asked >= {f"POST {path}" for path in POSTED}


def test_every_path_is_described(server):
    described = httpx2.get(f"{server.url}/openapi.json").json()
    assert described["openapi"].startswith("3.1")
    assert set(described["paths"]) == {
        "/v1/models", "/v1/models/{model}", "/v1/chat/completions", "/v1/completions",
        "/v1/explain", "/v1/edits", "/v1/edits/{edit}", "/v1/edits/revert",
        "/v1/edits/jobs", "/v1/edits/jobs/{job}", "/health", "/metrics",
    }  # fmt: skip
    asked = described["components"]["schemas"]["ChatRequest"]
    assert asked["additionalProperties"] is False
    assert asked["properties"]["temperature"]["anyOf"][0]["maximum"] == 2
