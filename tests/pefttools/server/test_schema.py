"""Requests made up from the server's own OpenAPI: none of them is a 500."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .conftest import Server


@pytest.mark.parametrize("base", ["tiny_bert", "tiny_llama"])
def test_no_request_is_a_500(
    base: str,
    serve: Callable[..., Server],
    classifiers: Callable[[int], Path],
    writers: Callable[[int], Path],
    request: pytest.FixtureRequest,
) -> None:
    artifact = classifiers(1) if base == "tiny_bert" else writers(1)
    server = serve(request.getfixturevalue(base), {"acme": [artifact]}, max_tokens=4)
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/v1/classify",
        "/v1/chat/completions",
        "/v1/adapters/{name}",
    }
    statuses: dict[int, int] = {}

    for operation in operations:

        @given(case=operation.as_strategy(), known=st.booleans())
        @settings(
            max_examples=40, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def ask(case: schemathesis.Case, known: bool) -> None:
            # Half of the requests name a model that there is, so that they get further than the name.
            if known and isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "acme"
            answer = case.call(base_url=server.url)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, answer.text

        ask()
    assert statuses[200] >= 5
    assert statuses[400] >= 5
    assert httpx.get(f"{server.url}/health").json()["status"] == "ok"
