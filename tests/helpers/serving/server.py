"""A server without a process: the application over a scripted engine, and ways to ask it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import torch
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import StreamingResponse

from danlu.dialog.assistant import Assistant
from danlu.engine.engine import Figures
from danlu.engine.request import SamplingSettings
from danlu.engine.service import EngineService
from danlu.errors import CapacityError, DataError, EnvironmentFault, UsageError
from danlu.hub.prompting import Prompting
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.keys import Keys
from danlu.server.lifecycle.app import create_app
from danlu.server.settings import ServeSettings
from danlu.server.state import ServerState, Serving

KEY = "a-key-that-nobody-guesses"


class ScriptedService:
    """Stands for the engine's thread: does nothing, and says what a test wants it to say."""

    def __init__(self) -> None:
        self.is_alive = True
        self.num_seats_taken = 0
        self.stopped_with: list[int] = []
        self.forgotten: list[object] = []

    def forget(self, adapter: object) -> None:
        self.forgotten.append(adapter)

    def call(self, function: Callable[[Any], None]) -> Future[None]:
        """Run a function at once, with this object as the engine."""
        done: Future[None] = Future()
        done.set_result(function(self))
        return done

    def figures(self) -> Figures:
        return Figures(num_running=3, num_waiting=2, cache_usage=0.25, num_preemptions=1)

    def stop(self, *, drain_s: float = 0.0) -> None:
        self.stopped_with.append(self.num_seats_taken)
        self.num_seats_taken = 0


_ON_THE_CPU = SimpleNamespace(
    name="/models/tiny", device=SimpleNamespace(torch_device=torch.device("cpu"))
)


def scripted_serving(service: object | None = None, loaded: object | None = None) -> Serving:
    """A model that is served, without a model."""
    return Serving(
        name="tiny",
        assistant=Assistant(
            loaded=cast(Any, loaded or _ON_THE_CPU),
            engine=cast(Any, None),
            dialog=cast(Any, None),
            prompting=Prompting(),
        ),
        service=cast(EngineService, service or ScriptedService()),
        defaults={True: SamplingSettings(), False: SamplingSettings()},
        context_tokens=4096,
    )


class Role(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: str


class Echo(BaseModel):
    model_config = ConfigDict(extra="forbid")
    text: str = ""
    count: int = Field(0, ge=0)
    messages: list[Role] = []


def stand_in_router() -> APIRouter:
    """Routes that answer, fail and stream, in place of those that compute."""
    router = APIRouter()
    faults: dict[str, Exception] = {
        "api": ApiError(429, "full", headers={"retry-after": "7"}),
        "usage": UsageError("what", why="why", fix="--fix"),
        "data": DataError("what", why="why", fix="--fix"),
        "capacity": CapacityError("what", why="why", fix="--fix"),
        "environment": EnvironmentFault("secret what", why="secret why", fix="--fix"),
        "bug": RuntimeError("secret at 0x7f00"),
    }

    @router.post("/test/echo")
    async def echo(body: Echo) -> Echo:
        return body

    @router.post("/test/fail/{name}")
    async def fail(name: str) -> None:
        raise faults[name]

    @router.post("/test/break")
    async def break_off() -> StreamingResponse:
        async def pieces() -> Any:
            yield b"begun"
            raise RuntimeError("secret in the middle")

        return StreamingResponse(pieces())

    return router


def server_app(
    *, keys: Iterable[str] = (), serving: Serving | None = None, loading: bool = False, **given: Any
) -> FastAPI:
    """The application with the stand-in routes."""
    state = ServerState.of(
        ServeSettings(**given), None if loading else serving or scripted_serving()
    )
    app = create_app(state, keys=Keys.of(keys))
    app.include_router(stand_in_router())
    return app


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer. broken: it was begun and not completed."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    broken: bool = False

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, which must have OpenAI's shape."""
        body = self.json()
        assert self.headers["content-type"] == "application/json"
        assert set(body) == {"error"}
        assert set(body["error"]) >= {"message", "type", "param", "code"}
        assert isinstance(body["error"]["message"], str)
        return dict(body["error"])


async def ask_async(
    app: Any,
    method: str,
    path: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    host: str | None = "localhost:8000",
    body: bytes | Sequence[bytes] = b"",
    delay_s: float = 0.0,
    receive: Callable[[], Awaitable[dict[str, Any]]] | None = None,
) -> Reply:
    """Ask an application directly; a body in pieces arrives in pieces, each after a delay.

    receive: what the client sends, in place of a body.
    """
    pieces = [body] if isinstance(body, bytes) else list(body)
    given = [] if host is None else [("host", host)]
    target, _question, query = path.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": target.encode("utf-8", "surrogatepass"),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(n.lower().encode(), v.encode("latin-1")) for n, v in [*given, *headers]],
    }
    sent: list[dict[str, Any]] = []

    async def receive_pieces() -> dict[str, Any]:
        if not pieces:
            await asyncio.sleep(3600)
        await asyncio.sleep(delay_s)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive or receive_pieces, send)
    assert sent[0]["type"] == "http.response.start"
    return Reply(
        status=sent[0]["status"],
        headers={n.decode(): v.decode("latin-1") for n, v in sent[0]["headers"]},
        body=b"".join(message["body"] for message in sent[1:]),
        broken=sent[-1].get("more_body", False),
    )


JSON = ("content-type", "application/json")


def ask(app: Any, method: str, path: str, **given: Any) -> Reply:
    """Ask once, in a loop of its own."""
    return asyncio.run(ask_async(app, method, path, **given))


def post(app: Any, path: str, body: object, **given: Any) -> Reply:
    """Send JSON."""
    headers = [JSON, *given.pop("headers", ())]
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ask(app, "POST", path, headers=headers, body=raw, **given)


def bearer(key: str = KEY) -> tuple[str, str]:
    """The header that shows a key."""
    return ("authorization", f"Bearer {key}")
