"""What is raised while a request is served, as answers in OpenAI's error shape.

The people who read them write programs: a message names the field and what is wrong with it, never
what the user wrote. OpenAI answers malformed requests with 400, not 422.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from danlu.errors import CapacityError, DanluError, DataError, UsageError
from danlu.language import _
from danlu.server.edge.errors import ApiError
from danlu.server.edge.logs import escaped

SERVER_ERROR = "server_error"
_LONGEST_MESSAGE = 2000


class ErrorDetail(BaseModel):
    """What went wrong: for people, and for programs."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer with an error status."""

    error: ErrorDetail


def as_response(problem: ApiError) -> Response:
    """Make the HTTP answer; text that cannot be shown or encoded is escaped."""
    body = problem.body()
    error = body["error"]
    for name in ("message", "param"):
        if error[name] is not None:
            error[name] = escaped(str(error[name]), keep="\n\t")[:_LONGEST_MESSAGE]
    return JSONResponse(body, status_code=problem.status, headers=problem.headers)


async def respond(problem: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request that got no further than the middleware."""
    await as_response(problem)(scope, receive, send)


def internal_error(request_id: str) -> ApiError:
    """Say that something of ours failed, and where to look it up."""
    return ApiError(
        500,
        _("The server failed to answer. Its log says why, under {id}.").format(id=request_id),
        kind=SERVER_ERROR,
        code="internal_error",
    )


def from_danlu_error(problem: DanluError) -> ApiError:
    """Say what a person would read in the terminal, without the flags of the command line."""
    message = f"{problem.what} {problem.why}"
    if isinstance(problem, UsageError | DataError):
        return ApiError(400, message)
    if isinstance(problem, CapacityError):
        return ApiError(
            503, message, kind=SERVER_ERROR, code="out_of_memory", headers={"retry-after": "5"}
        )
    raise problem  # the machine's fault: the log's business, and 500


def from_validation(problem: RequestValidationError) -> ApiError:
    """Name the first field at fault and what it should be."""
    first = problem.errors()[0]
    place = first["loc"]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return ApiError(
            400,
            _("The body is no JSON: {reason}, at character {position}.").format(
                reason=reason, position=place[-1]
            ),
            code="invalid_json",
        )
    field = field_path(place[1:] if place[:1] == ("body",) else place)
    if first["type"] == "extra_forbidden":
        reason = _("there is no such field.")
    else:
        reason = str(first["msg"]).removeprefix("Value error, ")
    return ApiError(400, f"{field}: {reason}" if field else reason, param=field or None)


def field_path(place: Sequence[str | int]) -> str:
    """Write where a field is: `messages[0].role`."""
    path = ""
    for step in place:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def from_http(problem: HTTPException, request: Request) -> ApiError:
    """Say which route is not there, or what it cannot do."""
    place = f"{request.method} {request.url.path}"
    message = {
        404: _("There is no route {place}. GET /docs lists all routes.").format(place=place),
        405: _("{place} is not possible. GET /docs lists all routes.").format(place=place),
    }.get(problem.status_code, str(problem.detail or HTTPStatus(problem.status_code).phrase))
    return ApiError(problem.status_code, message, headers=problem.headers)


def handle_problems(app: FastAPI) -> None:
    """Give the application its error answers. Anything else is left to `access`."""

    async def api_error(_request: Request, problem: Exception) -> Response:
        assert isinstance(problem, ApiError)
        return as_response(problem)

    async def danlu_error(_request: Request, problem: Exception) -> Response:
        assert isinstance(problem, DanluError)
        return as_response(from_danlu_error(problem))

    async def validation_error(_request: Request, problem: Exception) -> Response:
        assert isinstance(problem, RequestValidationError)
        return as_response(from_validation(problem))

    async def http_error(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        return as_response(from_http(problem, request))

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(DanluError, danlu_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
