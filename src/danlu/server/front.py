"""Pages in front of the API: what a studio adds to the server, and how far its layers let it pass.

Must not know what the pages show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from starlette.datastructures import Headers


def _no_session(_headers: Headers) -> str | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Front:
    """Routes of a page, which come before the API's own.

    public_paths: what a browser loads before it can show a key. opening_path: opens a session, so
    nothing is shown there yet. prefix: below it no model is needed. streamed: paths whose routes
    read their body piece by piece, within a limit of their own. session: names the holder of the
    session that a request's cookie shows; None without one.
    """

    routers: Sequence[APIRouter] = ()
    public_paths: frozenset[str] = frozenset()
    prefix: str | None = None
    opening_path: str | None = None
    streamed: frozenset[str] = frozenset()
    session: Callable[[Headers], str | None] = _no_session

    def needs_model(self, path: str) -> bool:
        """Whether a path is answered by a model."""
        own = self.prefix is not None and path.startswith(self.prefix)
        return not own and path not in self.public_paths
