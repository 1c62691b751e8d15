"""The routes against their own description: schemathesis makes requests from /openapi.json.

Through its strategies, not its pytest plugin, which relies on names that pytest 9 no longer has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from danlu.engine.engine import Engine
from tests.helpers.figures import figure
from tests.helpers.serving.served import application, served, tiny_loaded

ROUTES = {"/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"}


@pytest.fixture(scope="module")
def description() -> Iterator[Any]:
    loaded = tiny_loaded()
    engine = Engine(loaded.model, loaded.tokenizer, cache_tokens=8192)
    with served(engine, loaded=loaded, context_tokens=128) as serving:
        app = application(serving, allowed_host=["testserver"])  # its name for where it asks
        yield schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_breaks_the_server(description: Any, mode: GenerationMode) -> None:
    operations = [found.ok() for found in description.get_all_operations()]
    assert {operation.path for operation in operations} > ROUTES
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and operation.method != "post":
            continue  # they take nothing that could be wrong
        statuses = statuses_of(operation, mode)
        assert max(statuses) < 500
        # The strategies rest on the description: bad requests are known to be bad by it.
        assert mode is GenerationMode.POSITIVE or statuses.count(200) < len(statuses) / 2
        figure("requests by schemathesis", len(statuses))


def statuses_of(operation: Any, mode: GenerationMode) -> list[int]:
    """What a route answers to requests of its description, or against it."""
    statuses: list[int] = []

    @settings(max_examples=30, suppress_health_check=list(HealthCheck), database=None)
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        statuses.append(case.call().status_code)
        assert statuses[-1] < 500

    check()
    return statuses
