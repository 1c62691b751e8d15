"""S7: serving makes no connection to anywhere else. The watch is on for all tests of the server."""

from __future__ import annotations

import socket

import pytest

from tests.helpers.serving.outbound import Outbound
from tests.helpers.serving.server import ask, post, server_app


def test_the_watch_sees_connections(outbound: Outbound) -> None:
    with socket.socket(socket.AF_INET) as tried, pytest.raises(AssertionError):
        tried.connect(("203.0.113.1", 443))
    with pytest.raises(AssertionError):
        socket.create_connection(("example.org", 443))
    assert outbound.tried == ["203.0.113.1", "example.org"]


def test_what_names_other_machines_is_only_text(outbound: Outbound) -> None:
    app = server_app(adapter_dir=".")
    url = "http://203.0.113.1/adapter"
    assert post(app, "/v1/load_lora_adapter", {"lora_name": "x", "lora_path": url}).status == 400
    assert ask(app, "GET", f"/v1/models/{url}").status == 404
    assert ask(app, "GET", "/openapi.json").status == 200
    assert outbound.tried == []
