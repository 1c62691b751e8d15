"""/docs, and /: a page that lists the routes of /openapi.json, out of three files of this package.

It loads nothing from anywhere else, works offline and behind a path prefix (all its addresses are
relative), and asks for the key if there is one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "pages"
_FILES = {
    "/": ("docs.html", "text/html"),  # what a browser asks for first
    "/docs": ("docs.html", "text/html"),
    "/docs/page.js": ("docs.js", "text/javascript"),
    "/docs/page.css": ("docs.css", "text/css"),
}


def docs_router() -> APIRouter:
    """Make the routes of the page; its files are read once."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in _FILES.items():
        router.add_api_route(path, _page((_FOLDER / name).read_bytes(), media_type))
    return router


def _page(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type=media_type)

    return page
