"""Nothing of the studio may connect to anywhere but this machine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.helpers.serving.outbound import Outbound
from tests.helpers.studio import studio_at_home

Upload = Callable[..., str]


@pytest.fixture(autouse=True)
def outbound(monkeypatch: pytest.MonkeyPatch) -> Outbound:
    """Record and refuse connections to other machines."""
    watch = Outbound()
    watch.install(monkeypatch)
    return watch


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A studio without a model: data are looked at for the starter."""
    with studio_at_home(tmp_path, monkeypatch) as found:
        yield found


@pytest.fixture
def upload(client: TestClient) -> Upload:
    """Upload rows, or bytes, and return the data set's id."""

    def send(content: bytes | list[Any], name: str = "rows.jsonl") -> str:
        if isinstance(content, list):
            content = "".join(f"{json.dumps(row)}\n" for row in content).encode()
        answer = client.post(
            "/studio/data/uploads",
            params={"name": name},
            content=content,
            headers={"content-type": "application/octet-stream"},
        )
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    return send
