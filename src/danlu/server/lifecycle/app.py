"""The application: routes in the middle, five layers around them.

From the outside in: `access` (id, log line, an answer to every exception), `request_line` (HEAD,
whole addresses), `security` (Host, Origin, key), `gate` (503 without a model), `limits` (sizes,
counts). Must not know sockets.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from danlu import __version__
from danlu.language import _
from danlu.server.edge.access_log import Access
from danlu.server.edge.gate import Gate
from danlu.server.edge.http_errors import ErrorBody, handle_errors
from danlu.server.edge.keys import Keys
from danlu.server.edge.limits import Limits
from danlu.server.edge.security import PUBLIC_PATHS, Security
from danlu.server.front import Front
from danlu.server.lifecycle import status
from danlu.server.lifecycle.docs import docs_router
from danlu.server.lifecycle.elsewhere import ELSEWHERE
from danlu.server.lifecycle.request_line import RequestLine
from danlu.server.openai import chat_completions, completions, models, tokenize
from danlu.server.state import ServerState

_SCHEMAS = "#/components/schemas/"
_ERROR_CONTENT = {"application/json": {"schema": {"$ref": f"{_SCHEMAS}{ErrorBody.__name__}"}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"content": _ERROR_CONTENT, "description": "The request cannot be served."},
    "5XX": {"content": _ERROR_CONTENT, "description": "The server cannot serve it now."},
}


class DocumentedApp(FastAPI):
    """Says in /openapi.json what errors look like, and which operations need a key."""

    needs_key = False

    def openapi(self) -> dict[str, Any]:
        """Return the document; made once, which takes 0.3 seconds."""
        known = self.openapi_schema
        document = super().openapi()
        if document is not known:
            components = document.setdefault("components", {})
            error = ErrorBody.model_json_schema(ref_template=_SCHEMAS + "{model}")
            inner = error.pop("$defs")
            components.setdefault("schemas", {}).update({**inner, ErrorBody.__name__: error})
            _localize(document)
            if self.needs_key:
                components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
                for path in document["paths"].keys() - PUBLIC_PATHS:
                    for operation in document["paths"][path].values():
                        operation["security"] = [{"key": []}]
        return document


def _localize(part: Any) -> None:
    """Put what people read in the document into the chosen language."""
    if isinstance(part, list):
        for item in part:
            _localize(item)
    elif isinstance(part, dict):
        for name, value in part.items():
            if name == "description" and isinstance(value, str):
                part[name] = _(value)
            elif name == "tags" and isinstance(value, list):
                part[name] = [_(tag) for tag in value]
            else:
                _localize(value)


def create_app(
    state: ServerState, *, keys: Keys | None = None, front: Front | None = None
) -> FastAPI:
    """Make the application over a state, whose `serving` is set once the model is loaded.

    keys: those that are accepted; without any, no key is asked for. front: pages of a studio.
    """
    keys, front, settings = keys or Keys(), front or Front(), state.settings
    app = DocumentedApp(
        title="danlu",
        version=__version__,
        description="Serves one Qwen3 model and its adapters as OpenAI and vLLM do.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # An absolute address of ours in the document would be wrong behind a proxy.
        servers=[{"url": "."}],
    )
    app.needs_key = bool(keys)
    app.state.server = state
    for pages in front.routers:
        app.include_router(pages, include_in_schema=False)
    for room in (chat_completions, completions, tokenize, models, status):
        app.include_router(room.router, responses=_ERRORS)
    app.include_router(docs_router())
    handle_errors(app, elsewhere=ELSEWHERE)
    # The last one added is the outermost.
    app.add_middleware(Limits, settings=settings, streamed=front.streamed)
    app.add_middleware(Gate, front=front)
    app.add_middleware(Security, settings=settings, keys=keys, front=front)
    app.add_middleware(RequestLine)
    app.add_middleware(Access)
    return app
