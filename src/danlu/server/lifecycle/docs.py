"""/docs, and /: a page that lists the routes of /openapi.json, in the user's language.

Its files stand in this package. It loads nothing from anywhere else, works offline and behind a
path prefix (all its addresses are relative), and asks for the key if there is one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

from danlu.language import chosen_language

_FOLDER = Path(__file__).parent / "pages"
_PAGES = {"en": "docs.html", "zh_CN": "docs.zh_CN.html"}
_FILES = {
    "/docs/page.js": ("docs.js", "text/javascript"),
    "/docs/page.css": ("docs.css", "text/css"),
}


def docs_router() -> APIRouter:
    """Make the routes of the page; its files are read once."""
    router = APIRouter(include_in_schema=False)
    page = (_PAGES[chosen_language()], "text/html")
    # "/" is what a browser asks for first.
    for path, (name, media_type) in {"/": page, "/docs": page, **_FILES}.items():
        router.add_api_route(path, _page((_FOLDER / name).read_bytes(), media_type))
    return router


def _page(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type=media_type)

    return page
