"""S1, R37: who is let in, for every route, method, key, Host and Origin, against routes.txt."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from danlu.server.edge.keys import Keys
from danlu.server.edge.security import PUBLIC_PATHS
from danlu.server.lifecycle.app import create_app
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState
from tests.helpers.figures import figure
from tests.helpers.serving.server import JSON, KEY, ask_async, bearer, scripted_serving

TABLE = Path(__file__).with_name("routes.txt")
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
KEYS = {"none": [], "bad": [bearer("another-key")], "good": [bearer()]}
HOSTS = {"ok": "localhost:8000", "rebinding": "evil.example:8000", "ip": "192.168.1.7:8000"}
ORIGINS: dict[str, Any] = {
    "none": lambda host: [],
    "same": lambda host: [("origin", f"http://{host}")],
    "other": lambda host: [("origin", "https://evil.example")],
    "null": lambda host: [("origin", "null")],
    # Current browsers say where a request comes from as well.
    "cross-site": lambda host: [("sec-fetch-site", "cross-site")],
}


@dataclass(frozen=True, kw_only=True)
class Row:
    method: str
    path: str
    is_public: bool
    changes: bool


def table() -> list[Row]:
    """Read routes.txt."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [line.split() for line in lines if line and not line.startswith("#")]
    assert all(row[2] in ("public", "key") and row[3] in ("reads", "changes") for row in rows)
    return [
        Row(method=m, path=p, is_public=who == "public", changes=what == "changes")
        for m, p, who, what in rows
    ]


def app_on(host: str) -> FastAPI:
    state = ServerState.of(ServeSettings(host=host), scripted_serving())
    return create_app(state, keys=Keys.of([KEY]))


def routes(app: FastAPI) -> set[tuple[str, str]]:
    """Every method and path that the application answers."""
    found: set[tuple[str, str]] = set()
    todo = list(app.routes)
    while todo:
        route: Any = todo.pop()
        router = getattr(route, "original_router", None)  # of one that was included
        if router is not None:
            todo += router.routes
        else:
            found |= {(method, route.path) for method in route.methods - {"HEAD"}}
    return found


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    rows = {(row.method, row.path) for row in table()}
    present = routes(app_on("127.0.0.1"))
    assert present - rows == set(), "add these to routes.txt, with who may ask"
    assert rows - present == set()


def test_public_is_what_the_table_calls_public() -> None:
    assert {row.path for row in table() if row.is_public} == PUBLIC_PATHS


def test_reading_changes_nothing() -> None:
    """S4: GET is only for reading."""
    assert all(row.changes == (row.method != "GET") for row in table())


def expected(row: Row | None, method: str, key: str, host: str, origin: str, place: str) -> int:
    """What the rules say; 0: let in."""
    if place == "127.0.0.1" and host != "ok":
        return 403
    unsafe = method not in ("GET", "HEAD", "OPTIONS")
    if unsafe and origin in ("other", "null", "cross-site"):
        return 403
    is_public = row is not None and row.is_public and method in ("GET", "HEAD")
    return 0 if is_public or key == "good" else 401


@pytest.mark.parametrize("place", ["127.0.0.1", "0.0.0.0"])
def test_the_matrix(place: str) -> None:
    app = app_on(place)
    paths: dict[str, Row | None] = {row.path: row for row in table()}
    paths["/no/such/route"] = None
    faults = []
    combinations = list(itertools.product(paths, METHODS, KEYS, HOSTS, ORIGINS))

    async def try_all() -> None:
        for path, method, key, host, origin in combinations:
            headers = [JSON, *KEYS[key], *ORIGINS[origin](HOSTS[host])]
            target = path.replace("{model_id:path}", "tiny")
            answer = await ask_async(
                app, method, target, headers=headers, host=HOSTS[host], body=b"{"
            )
            got = answer.status if answer.status in (401, 403) else 0
            wanted = expected(paths[path], method, key, host, origin, place)
            if got != wanted:
                faults.append(f"{method} {path} {key=} {host=} {origin=}: {got}, not {wanted}")
            if got:
                assert set(answer.error) >= {"message", "code"}
            # No page of another origin is ever told that it may read an answer.
            assert "access-control-allow-origin" not in answer.headers

    asyncio.run(try_all())
    assert len(combinations) >= 17 * 5 * 3 * 3 * 5
    assert not faults, "\n".join(faults[:20])
    figure("requests of the access matrix", len(combinations))
