"""The built page: one HTML file and what it loads, from the package's own folder and nowhere else.

`frontend/` is its source; the build hook of the wheel writes it here. Without it the server says
what to run. Names of built files hold a digest of their content, so browsers may keep them.
"""

from __future__ import annotations

import mimetypes
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import Response

import danlu
from danlu.errors import EnvironmentFault
from danlu.language import _

FOLDER = Path(__file__).parent / "page"
_INDEX = "index.html"
_KEPT = {"cache-control": "public, max-age=31536000, immutable"}


def check_built() -> None:
    """Raise EnvironmentFault where the page was not built when danlu was installed."""
    if not (FOLDER / _INDEX).is_file():
        raise EnvironmentFault(
            _("The studio's page is not built."),
            why=_("Node.js was missing, or could not be reached, when danlu was installed."),
            fix=_how_to_build(),
        )


def _how_to_build() -> str:
    clone = Path(danlu.__file__).parents[2]
    if (clone / "hatch_build.py").is_file():
        return f"cd {shlex.quote(str(clone))} && make studio"
    return "python3 -m pip install --force-reinstall --no-deps danlu"


def page_router() -> APIRouter:
    """Make a route for each built file; they are read once."""
    router = APIRouter()
    for path, file in _files().items():
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        kind = "text/javascript" if kind.endswith("javascript") else kind
        headers = {} if path == "/" else _KEPT
        router.add_api_route(path, _answer(file.read_bytes(), kind, headers), methods=["GET"])
    return router


def public_paths() -> frozenset[str]:
    """Return the paths of the page, which a browser loads before it can show a key."""
    return frozenset(_files())


def _files() -> dict[str, Path]:
    files = [file for file in sorted(FOLDER.rglob("*")) if file.is_file()]
    return {_path(file): file for file in files}


def _path(file: Path) -> str:
    return "/" if file.name == _INDEX else f"/{file.relative_to(FOLDER).as_posix()}"


def _answer(
    content: bytes, kind: str, headers: dict[str, str]
) -> Callable[[], Awaitable[Response]]:
    async def page() -> Response:
        return Response(content, media_type=kind, headers=headers)

    return page
