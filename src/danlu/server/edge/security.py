"""Access control. First the Host is checked, then the Origin, then the key.

Pure functions say what is allowed; the middleware asks them before anything of a request is read.
What a request claims about itself is never trust: a Host is compared with a list, an Origin with
that Host or a list, a key with digests. Without `--allowed_origin` no page of another origin can
use the server, and answers carry no CORS headers.

Sources: Fetch Metadata (Sec-Fetch-Site), the Fetch standard (Origin, CORS), RFC 9110 (Host).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from danlu.language import _
from danlu.server.edge.http_errors import ApiError
from danlu.server.edge.keys import Keys, is_loopback
from danlu.server.state import record_of

# What a browser loads before it can be given a key, and what supervisors poll.
PUBLIC_PATHS = frozenset({"/health", "/docs", "/docs/page.js", "/docs/page.css"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a server allows. on_loopback: only this machine reaches it, so every Host is checked."""

    keys: Keys = field(default_factory=Keys)
    on_loopback: bool = True
    hosts: frozenset[str] = _LOOPBACK_NAMES
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        *,
        host: str,
        keys: Keys,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
    ) -> Policy:
        """Make the policy of a server that listens on `host`."""
        return cls(
            keys=keys,
            on_loopback=is_loopback(host),
            hosts=_LOOPBACK_NAMES | {host_name(name) for name in (host, *allowed_hosts)},
            origins=frozenset(origin.lower() for origin in allowed_origins),
        )

    def check_host(self, headers: Headers) -> None:
        """Refuse a name of another server, which a web page may have pointed here (DNS rebinding).

        Elsewhere than on loopback nothing is answered without a key but the public paths, and the
        machines one rents stand behind proxies whose names change; there any name will do.
        """
        given = headers.getlist("host")
        if len(given) != 1:
            raise ApiError(400, _("A request names exactly one Host."), code="invalid_host")
        name = host_name(given[0])
        if self.on_loopback and name not in self.hosts:
            raise ApiError(
                403,
                _(
                    "This server does not answer to that Host. If it is yours, start the server "
                    "with --allowed_host NAME."
                ),
                kind="permission_error",
                code="host_not_allowed",
            )

    def check_origin(self, method: str, headers: Headers) -> None:
        """Refuse requests of pages of other origins, unless the method is a safe one."""
        if method in _SAFE_METHODS or self.allows_origin(headers):
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
                kind="permission_error",
                code="origin_not_allowed",
            )

    def allows_origin(self, headers: Headers) -> bool:
        """Whether the page that sends the request is on the list."""
        return headers.get("origin", "").lower() in self.origins

    def check_key(self, method: str, path: str, headers: Headers) -> str:
        """Return the name of the key that was shown; "" where none is needed."""
        if not self.keys or (path in PUBLIC_PATHS and method in ("GET", "HEAD")):
            return ""
        given = headers.getlist("authorization")
        name = self.keys.recognise(given[0]) if len(given) == 1 else None
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


def host_name(host: str) -> str:
    """Return the name in a Host header, without port and final dot, in small letters.

    An IPv6 address stands in brackets.
    """
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    if name.count(":") > 1:
        return f"[{name}]"
    return name.partition(":")[0].rstrip(".")


def _same_host(origin: str, host: str) -> bool:
    """Compare an Origin with a Host; a proxy may have ended the https."""
    scheme, _separator, place = origin.strip().lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    if port is None or not place:
        return False
    return place.removesuffix(port) == host.strip().lower().removesuffix(port)


class Security:
    """ASGI middleware that asks the policy, and records which key a request has shown."""

    def __init__(self, app: ASGIApp, *, policy: Policy) -> None:
        self._app = app
        self._policy = policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        policy, headers, method = self._policy, Headers(scope=scope), scope["method"]
        record = record_of(scope)
        policy.check_host(headers)
        if policy.allows_origin(headers):
            record.headers |= _allowing(headers["origin"])
            if method == "OPTIONS" and "access-control-request-method" in headers:
                await Response(status_code=204)(scope, receive, send)
                return
        policy.check_origin(method, headers)
        record.key = policy.check_key(method, scope["path"], headers)
        await self._app(scope, receive, send)


def _allowing(origin: str) -> dict[str, str]:
    """Return headers that let a listed page read any answer; it needs a key all the same."""
    return {
        "access-control-allow-origin": origin,
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "authorization, content-type",
        "access-control-expose-headers": "x-request-id",
        "access-control-max-age": "600",
        "vary": "origin",
    }
