"""Errors as HTTP answers, in OpenAI's error shape.

The people who read them write programs: a message names the field and what is wrong with it, never
what the user wrote. The text of an unexpected exception goes to the log only, with the request's
id. Sources: OpenAI's API reference, "Error codes"; it answers malformed requests with 400, not 422.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from danlu.engine.service import EngineStopped
from danlu.errors import CapacityError, DanluError, DataError, UsageError
from danlu.files.os_errors import impossible_name
from danlu.language import _, joined
from danlu.reasons import library_reason
from danlu.server.edge.logs import escaped
from danlu.server.state import record_of

# OpenAI's `type` of an error, by its status; 500 and above are the server's.
_TYPES = {403: "permission_error", 429: "rate_limit_error"}
_OTHER_TYPE = "invalid_request_error"
_LONGEST_MESSAGE = 2000

_log = logging.getLogger(__name__)


class ErrorDetail(BaseModel):
    """What went wrong: for people, and for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer with an error status."""

    error: ErrorDetail


@dataclass(eq=False)
class ApiError(Exception):
    """An answer with an error status.

    code: what programs compare. param: the field at fault. extra: further fields of the error.
    headers: of the HTTP answer.
    """

    status: int
    message: str
    _: KW_ONLY
    code: str | None = None
    param: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] | None = None

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, _OTHER_TYPE)
        return {
            "error": {
                "message": self.message,
                "type": kind,
                "param": self.param,
                "code": self.code,
                **self.extra,
            }
        }


def as_response(error: ApiError) -> Response:
    """Make the HTTP answer; text that cannot be shown or encoded is escaped."""
    body = error.body()
    fields = body["error"]
    for name in ("message", "param"):
        if fields[name] is not None:
            # Cut before too: escaping a long text takes long.
            text = escaped(str(fields[name])[:_LONGEST_MESSAGE], keep="\n\t")
            fields[name] = text[:_LONGEST_MESSAGE]
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def api_error_of(
    problem: Exception | None,
    request_id: str,
    *,
    param: str | None = None,
    in_engine: bool = False,
) -> ApiError:
    """Translate an exception, without the flags of the command line; log what is the server's.

    request_id: names it in the log. param: the field that is at fault. in_engine: it was raised
    while an answer was computed, so bad data are the model's (500) and not the request's (400).
    """
    if isinstance(problem, ApiError):
        return problem
    problem = (problem and impossible_name(problem)) or problem
    if isinstance(problem, UsageError) or (isinstance(problem, DataError) and not in_engine):
        return ApiError(400, joined(problem.what, problem.why), param=param)
    if isinstance(problem, CapacityError) and not in_engine:
        return ApiError(
            503,
            joined(problem.what, problem.why),
            code="out_of_memory",
            param=param,
            headers={"retry-after": "5"},
        )
    if isinstance(problem, EngineStopped):
        return ApiError(503, _("The engine has stopped."), code="unavailable")
    _log.error("request %s failed", request_id, exc_info=problem)
    if isinstance(problem, CapacityError):
        return ApiError(503, problem.what, code="unavailable")
    if isinstance(problem, DataError):
        return ApiError(500, problem.what, code="bad_model")
    return ApiError(
        500,
        _("The server failed to answer. Its log says why, under {id}.").format(id=request_id),
        code="internal_error",
    )


def _of_validation(problem: RequestValidationError) -> ApiError:
    """Name the first field at fault and what it should be."""
    first = problem.errors()[0]
    place = first["loc"]
    if first["type"] == "json_invalid":
        reason = library_reason(str(first.get("ctx", {}).get("error", "")))
        return ApiError(
            400,
            _("The body is no JSON: {reason}, at character {position}.").format(
                reason=reason, position=place[-1]
            ),
            code="invalid_json",
        )
    field = _field_path(place[1:] if place[:1] == ("body",) else place)
    if first["type"] == "extra_forbidden":
        reason = _("there is no such field.")
    elif first["type"] == "literal_error":
        choices = str(first.get("ctx", {}).get("expected", "")).replace(" or ", ", ")
        reason = _("Input should be one of these: {choices}").format(choices=choices)
    else:
        reason = library_reason(str(first["msg"]).removeprefix("Value error, "))
    return ApiError(400, f"{field}: {reason}" if field else reason, param=field or None)


def _field_path(place: Sequence[str | int]) -> str:
    """Write where a field is: `messages[0].role`."""
    path = ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _of_routing(problem: HTTPException, request: Request, elsewhere: Mapping[str, str]) -> ApiError:
    """Name the route that does not exist, or what it cannot do."""
    path = request.url.path
    place, near = f"{request.method} {path}", elsewhere.get(path)
    if problem.status_code == 405:
        message = _("{place} is not possible. GET /docs lists all routes.").format(place=place)
    elif problem.status_code != 404:
        message = library_reason(str(problem.detail or HTTPStatus(problem.status_code).phrase))
    elif near is None:
        message = _("There is no route {place}. GET /docs lists all routes.").format(place=place)
    elif not near.startswith("/"):
        message = _("There is no route {place}.").format(place=place) + f" {_(near)}"
    else:
        message = _(
            "There is no route {place}; use {near}. The base address of OpenAI's clients ends with "
            "/v1. GET /docs lists all routes."
        ).format(place=place, near=near)
    return ApiError(problem.status_code, message, headers=problem.headers)


def handle_errors(app: FastAPI, *, elsewhere: Mapping[str, str]) -> None:
    """Give the application its error answers. Other exceptions are left to `access`.

    elsewhere: addresses without a route, each with the route that does what clients want of it, or
    with a sentence that says what to do instead.
    """

    async def answer(request: Request, problem: Exception) -> Response:
        if isinstance(problem, RequestValidationError):
            return as_response(_of_validation(problem))
        if isinstance(problem, HTTPException):
            return as_response(_of_routing(problem, request, elsewhere))
        return as_response(api_error_of(problem, record_of(request.scope).id))

    for kind in (ApiError, DanluError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
