"""Every route of the studio, those to come too: closed without a session, and never failing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from danlu.web.built_page import public_paths
from danlu.web.session_routes import SESSION
from tests.helpers.serving.server import KEY
from tests.helpers.studio import StudioClient, studio_client

# What a browser needs before it can show anything, and what supervisors poll.
OPEN = {"/", "/health", "/docs", "/docs/page.js", "/docs/page.css", SESSION}
# No path that a browser sends is opened: whatever looks like one is an unknown name.
HOSTILE = ("../../etc/passwd", "%2e%2e%2fetc%2fpasswd", "a" * 3000, "\u202e", "-1", "0x1f")


def routes(client: StudioClient) -> list[tuple[str, str]]:
    """List (method, path) of all that is answered; routers stand inside of routers."""
    found: set[tuple[str, str]] = set()
    todo = list(client.app.routes)  # type: ignore[attr-defined]
    while todo:
        route = todo.pop()
        inner = getattr(route, "original_router", None)
        if isinstance(route, APIRoute):
            found |= {(method, route.path) for method in route.methods}
        elif inner is not None:
            todo += inner.routes
    return sorted(found)


def test_nothing_is_open_without_a_session(tmp_path: Path) -> None:
    with studio_client(tmp_path, keys=[KEY]) as client:
        found = routes(client)
        assert sum(path.startswith("/studio/") for _method, path in found) > 40
        for method, path in found:
            if path in OPEN or path in public_paths():
                continue
            address = re.sub(r"\{[^}]*\}", "1", path)
            answer = client.request(method, address, json={} if method != "GET" else None)
            assert answer.status_code == 401, (method, path)


@pytest.mark.parametrize("word", HOSTILE)
def test_a_hostile_name_is_an_unknown_one(tmp_path: Path, word: str) -> None:
    with studio_client(tmp_path) as client:
        for method, path in routes(client):
            if "{" not in path or not path.startswith("/studio/") or path.endswith("/events"):
                continue
            address = re.sub(r"\{[^}]*\}", word, path)
            answer = client.request(method, address, json={} if method != "GET" else None)
            assert 200 <= answer.status_code < 500, (method, path, answer.text)
            assert "root:" not in answer.text


def test_bodies_of_another_form_are_refused(tmp_path: Path) -> None:
    with studio_client(tmp_path) as client:
        for method, path in routes(client):
            if method == "GET" or not path.startswith("/studio/"):
                continue
            address = re.sub(r"\{[^}]*\}", "1", path)
            for body in ({"no": {"such": "field"}}, [], 5):
                answer = client.request(method, address, json=body)
                assert answer.status_code < 500, (method, path, answer.text)
