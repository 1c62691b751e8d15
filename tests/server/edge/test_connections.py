"""Connections: who is slow, silent or malformed is let go, and keeps nobody out (R25, R26)."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from danlu.server.edge import connections
from danlu.server.edge.connections import connection_class
from danlu.server.edge.http_parser import HttpParser
from tests.helpers.waiting import PATIENCE_S, until

GET = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers /big with 32 MB, /read with the length of the body, else with two letters at once."""
    asked.append(scope["path"])
    size, has_more = 0, scope["path"] == "/read"
    while has_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            ended.append("cut off")
            return
        size, has_more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/big":
        for _ in range(512):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        ended.append("big")
    if scope["path"] == "/wait":
        await release.wait()
    await send({"type": "http.response.body", "body": str(size).encode() if size else b"ok"})


asked: list[str] = []
ended: list[str] = []
release = asyncio.Event()


@asynccontextmanager
async def serving() -> AsyncIterator[Callable[[], Coroutine[Any, Any, Streams]]]:
    """Serve on a free port; gives a function that connects."""
    config = uvicorn.Config(
        app,
        http=connection_class(),
        ws="none",
        lifespan="off",
        log_config=None,
        port=0,
    )
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    port = server.servers[0].sockets[0].getsockname()[1]
    clients: list[Streams] = []

    async def connect() -> Streams:
        clients.append(await asyncio.open_connection("127.0.0.1", port))
        return clients[-1]

    connect.server = server  # type: ignore[attr-defined]
    try:
        yield connect
    finally:
        for _reader, writer in clients:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await server.shutdown()


async def answer_of(streams: Streams) -> bytes:
    """Read to the end."""
    with suppress(ConnectionError):
        return await asyncio.wait_for(streams[0].read(), PATIENCE_S)
    return b""


async def asks(streams: Streams) -> bytes:
    """Send a request; the beginning of the answer."""
    streams[1].write(GET)
    return await asyncio.wait_for(streams[0].readuntil(b"\r\n"), PATIENCE_S)


def run(scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        async with serving() as connect:
            await scenario(connect)

    asyncio.run(inside())


def test_a_client_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)

    async def scenario(connect: Any) -> None:
        assert await answer_of(await connect()) == b""

    run(scenario)


def test_a_head_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.3)

    async def drip(streams: Streams) -> None:
        """Send on until the connection is closed."""
        with suppress(ConnectionError):
            while True:
                streams[1].write(b"x: 1\r\n")
                await streams[1].drain()
                await asyncio.sleep(0.02)

    async def scenario(connect: Any) -> None:
        first = await connect()
        first[1].write(GET.removesuffix(b"\r\n"))
        await asyncio.wait_for(drip(first), PATIENCE_S)
        # The same on a connection that has asked before.
        second = await connect()
        assert await asks(second) == b"HTTP/1.1 200 OK\r\n"
        second[1].write(GET.removesuffix(b"\r\n"))
        await asyncio.wait_for(drip(second), PATIENCE_S)

    run(scenario)


def test_a_client_that_does_not_read_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "WRITE_SECONDS", 1.0)
    ended.clear()
    asked.clear()

    async def scenario(connect: Any) -> None:
        slow, other = await connect(), await connect()
        slow[1].write(GET.replace(b"/ ", b"/big "))
        await until(lambda: asked == ["/big"])
        assert not ended  # it waits for the client, instead of keeping 32 MB for it
        assert await asks(other) == b"HTTP/1.1 200 OK\r\n"
        await until(lambda: ended == ["big"])

    run(scenario)


def test_idle_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "most_connections", lambda: 20)
    release.clear()

    async def scenario(connect: Any) -> None:
        working = await connect()
        head = b"GET /wait HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        working[1].write(head)
        assert await asks(await connect()) == b"HTTP/1.1 200 OK\r\n"
        idle = await asyncio.gather(*(connect() for _ in range(60)))
        assert await asks(await connect()) == b"HTTP/1.1 200 OK\r\n"
        release.set()
        assert (await answer_of(working)).endswith(b"ok\r\n0\r\n\r\n")  # nobody at work is let go
        gone = sum(streams[0].at_eof() or streams[0].exception() is not None for streams in idle)
        assert gone >= 40

    run(scenario)


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx-junk: " + b"a" * 1_000_000,
        b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_is_answered_in_the_same_shape(sent: bytes) -> None:
    async def scenario(connect: Any) -> None:
        streams = await connect()
        streams[1].write(sent)
        if not sent.endswith(b"\r\n\r\n"):
            streams[1].write(b"\r\n\r\n")
        head, _blank, body = (await answer_of(streams)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "invalid_http"

    run(scenario)


POST = (
    b"POST %s HTTP/1.1\r\nhost: localhost\r\n"
    b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
)


def chunks(size: int, number: int) -> bytes:
    """The same chunk many times, without the end."""
    return (b"%x\r\n" % size + b"x" * size + b"\r\n") * number


@pytest.mark.parametrize(("size", "number"), [(1, 900), (100, 900), (300, 20_000), (65536, 50)])
def test_a_body_in_chunks_is_read(size: int, number: int) -> None:
    async def scenario(connect: Any) -> None:
        streams = await connect()
        for _time in range(2):
            streams[1].write(POST % b"/read" + chunks(size, number) + b"0\r\n\r\n")
            head = await asyncio.wait_for(streams[0].readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert b"connection: close" not in head.lower()
            rest = await asyncio.wait_for(streams[0].readuntil(b"0\r\n\r\n"), PATIENCE_S)
            assert str(size * number).encode() in rest

    run(scenario)


@pytest.mark.parametrize("size", [1, 20, 200])
def test_a_body_in_tiny_chunks_is_refused(size: int) -> None:
    """Each chunk costs the event loop the same, so a body must not come byte by byte."""

    async def scenario(connect: Any) -> None:
        ended.clear()
        streams = await connect()
        streams[1].write(POST % b"/read" + chunks(size, 20_000))
        head, _blank, body = (await answer_of(streams)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert "small chunks" in json.loads(body)["error"]["message"]
        assert ended == ["cut off"]  # the route does not wait for the rest
        assert await asks(await connect()) == b"HTTP/1.1 200 OK\r\n"

    run(scenario)


def test_what_follows_a_refusal_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Any] = []
    real = HttpParser.next_event

    def noted(self: HttpParser) -> Any:
        parsed.append(real(self))
        return parsed[-1]

    monkeypatch.setattr(HttpParser, "next_event", noted)
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.5)

    async def scenario(connect: Any) -> None:
        asked.clear()
        streams = await connect()
        streams[1].write(POST % b"/refused")
        head = await asyncio.wait_for(streams[0].readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert b"connection: close" in head.lower()
        before = len(parsed)
        with suppress(ConnectionError):
            for _time in range(50):
                streams[1].write(chunks(1, 500))
                await streams[1].drain()
            streams[1].write(b"0\r\n\r\n" + GET.replace(b"/ ", b"/smuggled "))
        assert (await answer_of(streams)).endswith(b"0\r\n\r\n")
        assert len(parsed) == before
        assert asked == ["/refused"]

    run(scenario)


def test_an_answer_reaches_a_client_that_reads_only_once_all_is_sent() -> None:
    async def scenario(connect: Any) -> None:
        streams = await connect()
        streams[1].write(
            b"POST /refused HTTP/1.1\r\nhost: a\r\ncontent-length: 3000000\r\n\r\n"
            + b"x" * 3_000_000
        )
        await asyncio.wait_for(streams[1].drain(), PATIENCE_S)
        assert (await answer_of(streams)).startswith(b"HTTP/1.1 200 OK\r\n")

    run(scenario)


def test_a_client_that_sends_on_does_not_hold_up_the_end_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "LINGER_SECONDS", 3600.0)

    async def scenario(connect: Any) -> None:
        streams = await connect()
        streams[1].write(POST % b"/refused")
        assert await answer_of(streams)  # and it sends on, perhaps
        [connection] = connect.server.server_state.connections
        connection.shutdown()
        await until(lambda: not connect.server.server_state.connections)

    run(scenario)


def test_a_body_with_two_lengths_is_refused_and_the_connection_closed() -> None:
    async def scenario(connect: Any) -> None:
        asked.clear()
        streams = await connect()
        head = (POST % b"/read").replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n")
        streams[1].write(head + b"0\r\n\r\n" + GET.replace(b"/ ", b"/smuggled "))
        answer = await answer_of(streams)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert asked == []

    run(scenario)


@pytest.mark.parametrize(
    ("files", "most"), [(1024, 768), (65536, 4096), (resource.RLIM_INFINITY, 4096), (64, 16)]
)
def test_the_bound_follows_the_system(
    monkeypatch: pytest.MonkeyPatch, files: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, files))
    connections.most_connections.cache_clear()
    assert connections.most_connections() == most
    connections.most_connections.cache_clear()
