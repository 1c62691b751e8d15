"""Parses, validates and reads a long body on a thread, so that other requests do not wait for it.

What the scan in `request_body` lets through is bounded, so no single call of a parser holds up the
threads for long either. Must not know routes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from danlu.server.edge.request_body import LONG_BODY
from danlu.server.state import state_of

Result = TypeVar("Result")


async def on_thread(request: Request, read: Callable[..., Result], *words: Any) -> Result:
    """Run what reads the text of a request on a thread; of long ones only few at once."""
    if len(await request.body()) <= LONG_BODY:
        return await asyncio.to_thread(read, *words)
    async with state_of(request.app).long_texts:
        return await asyncio.to_thread(read, *words)


class LongBodyRoute(APIRoute):
    """A route whose long bodies FastAPI finds validated; pass it as `route_class` of a router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers a request."""
        answer = super().get_route_handler()

        async def answer_validated(request: Request) -> Response:
            body = await request.body()
            if len(body) > LONG_BODY:
                # What `Request.json` returns: FastAPI takes a model that is one already as it is.
                request._json = await asyncio.to_thread(self._validated, body)
            return await answer(request)

        return answer_validated

    def _validated(self, body: bytes) -> Any:
        """Return the model of a body. Raises RequestValidationError with the first error."""
        try:
            value = json.loads(body)
        except ValueError as problem:
            error = {
                "type": "json_invalid",
                "loc": ("body", getattr(problem, "pos", 0)),
                "ctx": {"error": getattr(problem, "msg", "")},
            }
            raise RequestValidationError([error]) from problem
        if self.body_field is None:
            return value
        model, errors = self.body_field.validate(value, {}, loc=("body",))
        if errors:
            raise RequestValidationError(errors[:1])
        return model
