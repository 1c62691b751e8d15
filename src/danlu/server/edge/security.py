"""Access control. First the Host is checked, then the Origin, then the key.

Nothing of a body is read before. What a request claims about itself is never trust: a Host is
compared with a list, an Origin with that Host or a list, a key with digests. Without
`--allowed_origin` no page of another origin can use the server, and answers carry no CORS headers.

Sources: Fetch Metadata (Sec-Fetch-Site), the Fetch standard (Origin, CORS), RFC 9110 (Host).
"""

from __future__ import annotations

import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.keys import Keys, is_loopback
from danlu.server.front import Front
from danlu.server.host_names import host_name, listed_name
from danlu.server.settings import ServeSettings
from danlu.server.state import record_of

# What a browser loads before it can be given a key, and what supervisors poll.
PUBLIC_PATHS = frozenset({"/", "/health", "/docs", "/docs/page.js", "/docs/page.css"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_USUAL_HEADERS = frozenset({"authorization", "content-type"})
_ASKED_HEADER = re.compile(
    r"accept|idempotency-key|user-agent|x-request-id|(?:x-stainless|openai)-[a-z0-9-]{1,64}"
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Security:
    """ASGI middleware that refuses what is not allowed, and records which key was shown."""

    def __init__(self, app: ASGIApp, *, settings: ServeSettings, keys: Keys, front: Front) -> None:
        self._app = app
        self._public, self._opening_path = PUBLIC_PATHS | front.public_paths, front.opening_path
        self._session = front.session
        names = {listed_name(name) for name in (settings.host, *settings.allowed_host)}
        self._keys = keys
        self._on_loopback = is_loopback(settings.host)
        self._hosts = _LOOPBACK_NAMES | (names - {None})
        self._origins = frozenset(origin.lower() for origin in settings.allowed_origin)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, method, record = Headers(scope=scope), scope["method"], record_of(scope)
        self._check_host(headers)
        if self._allows_origin(headers):
            record.headers |= _allowing(headers)
            if method == "OPTIONS" and "access-control-request-method" in headers:
                await Response(status_code=204)(scope, receive, send)
                return
        self._check_origin(method, headers)
        record.key = self._check_key(method, scope["path"], headers)
        await self._app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Refuse a name of another server, which a web page may have pointed here (DNS rebinding).

        Elsewhere than on loopback nothing is answered without a key but the public paths, and the
        machines one rents stand behind proxies whose names change; there any name will do.
        """
        given = headers.getlist("host")
        if len(given) != 1:
            raise ApiError(400, _("A request names exactly one Host."), code="invalid_host")
        name = host_name(given[0])
        if name is None:
            raise ApiError(400, _("The Host of the request is no name."), code="invalid_host")
        if self._on_loopback and name not in self._hosts:
            raise ApiError(
                403,
                _(
                    "This server does not answer to that Host. If it is yours, start the server "
                    "with --allowed_host NAME."
                ),
                code="host_not_allowed",
            )

    def _check_origin(self, method: str, headers: Headers) -> None:
        """Refuse requests of pages of other origins, unless the method is a safe one."""
        if method in _SAFE_METHODS or self._allows_origin(headers):
            return
        site = headers.get("sec-fetch-site")
        if site is not None:
            is_ours = site in ("same-origin", "none")
        else:
            origin = headers.get("origin")
            is_ours = origin is None or _same_host(origin, headers["host"])
        if not is_ours:
            raise ApiError(
                403,
                _(
                    "Web pages of other origins may not ask this server. If the page is yours, "
                    "start the server with --allowed_origin ORIGIN."
                ),
                code="origin_not_allowed",
            )

    def _allows_origin(self, headers: Headers) -> bool:
        """Whether the page that sends the request is on the list."""
        return headers.get("origin", "").lower() in self._origins

    def _check_key(self, method: str, path: str, headers: Headers) -> str:
        """Return the name of the key or session that was shown; "" where none is needed."""
        if not self._keys or path == self._opening_path:
            return ""
        if path in self._public and method in ("GET", "HEAD"):
            return ""
        given = headers.getlist("authorization")
        name = self._keys.recognise(given[0]) if len(given) == 1 else self._session(headers)
        if name is None:
            raise ApiError(
                401,
                _("This server needs its key: Authorization: Bearer KEY")
                if not given
                else _("That is not a key of this server."),
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return name


def _same_host(origin: str, host: str) -> bool:
    """Compare an Origin with a Host; a proxy may have ended the https."""
    scheme, _separator, place = origin.strip().lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or not place:
        return False
    return place.removesuffix(port) == host.strip().lower().removesuffix(port)


def _allowing(headers: Headers) -> dict[str, str]:
    """Return headers that let a listed page read any answer; it needs a key all the same.

    A preflight names the headers that the page will send; of those are allowed what programs of
    OpenAI's API send.
    """
    asked = headers.get("access-control-request-headers", "").lower().split(",")
    names = {name.strip() for name in asked if _ASKED_HEADER.fullmatch(name.strip())}
    return {
        "access-control-allow-origin": headers["origin"],
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": ", ".join(sorted(_USUAL_HEADERS | names)),
        "access-control-expose-headers": "x-request-id, x-danlu-ignored",
        "access-control-max-age": "600",
        "vary": "origin",
    }
