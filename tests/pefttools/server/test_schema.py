"""Requests made up from the server's own OpenAPI: the server keeps to what the document says."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from .conftest import Server

CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
#: a request that is too large is a request refused
CONFIG = """
[parameters]
name = "acme"
[checks.negative_data_rejection]
expected-statuses = ["400", "401", "403", "404", "405", "409", "413", "422", "429", "5xx"]
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "401", "403", "404", "409", "413", "429"]
"""


#: the document can't say which texts an adapter takes, nor how many tokens they are
HOOKS = """
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

@schemathesis.check
def requests_that_fit_are_taken(ctx, response, case):
    if response.status_code == 400 and response.json()["error"]["code"] in {"context_length_exceeded", "invalid_text"}:
        return None
    return positive_data_acceptance(ctx, response, case)
"""


@pytest.fixture(params=["tiny_bert", pytest.param("tiny_llama", marks=pytest.mark.slow)])
def server(
    serve: Callable[..., Server],
    classifiers: Callable[[int], Path],
    writers: Callable[[int], Path],
    request: pytest.FixtureRequest,
) -> Server:
    artifact = classifiers(1) if request.param == "tiny_bert" else writers(1)
    return serve(request.getfixturevalue(request.param), {"acme": [artifact]}, max_tokens=4)


def test_answers_are_what_the_document_says(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/v1/classify",
        "/v1/chat/completions",
        "/v1/adapters/{name}",
    }
    statuses: dict[int, int] = {}

    for operation, mode in itertools.product(operations, GenerationMode):
        if mode == GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
            continue  # there is nothing to get wrong

        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        @settings(
            max_examples=25, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: schemathesis.Case[Any], known: bool) -> None:
            # Half of the requests name a model that there is, so that they get further than the name.
            if known and isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "acme"
            if known and "name" in case.path_parameters:
                case.path_parameters["name"] = "acme"
            answer = case.call(base_url=server.url)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            case.validate_response(answer, checks=CHECKS)

        ask()
    assert statuses[200] >= 5
    assert statuses[400] >= 5
    assert statuses[404] >= 5
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"


@pytest.mark.slow
def test_every_check_for_three_minutes(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "schemathesis.toml"
    file.write_text(CONFIG, encoding="utf-8")
    (tmp_path / "own_checks.py").write_text(HOOKS, encoding="utf-8")
    found = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--no-color", "--config-file", str(file), "run",
         f"{server.url}/openapi.json", "--checks", "all", "--exclude-checks", "positive_data_acceptance",
         "--max-time", "180", "--continue-on-failure"],
        env=os.environ | {"SCHEMATHESIS_HOOKS": "own_checks", "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, cwd=tmp_path, timeout=600, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    asked = re.search(r"(\d+) generated", found.stdout)
    assert asked is not None and int(asked[1]) > 5000
