"""An index of packages on this machine, like PyTorch's: one page that lists builds of torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

Reply = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def serving(reply: Reply) -> Iterator[str]:
    """Answer requests on this machine; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

        def log_message(self, *_: Any) -> None:
            """Keep standard error for errors."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def serving_index(
    version: str, build: str, python: str | None = None
) -> AbstractContextManager[str]:
    """Serve a page like PyTorch's, with one build for both kinds of processor."""
    python = python or f"cp3{sys.version_info[1]}"
    names = [
        f"torch-{version}%2B{build}-{python}-{python}-manylinux_2_28_{machine}.whl"
        for machine in ("x86_64", "aarch64")
    ]

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200 if handler.path == "/torch/" else 404)
        handler.end_headers()
        handler.wfile.write("".join(f'<a href="/whl/{n}#sha256=0">' for n in names).encode())

    return serving(reply)
