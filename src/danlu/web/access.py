"""Who may use the studio: a session cookie, given for the key or for a one-time link.

On loopback nobody is asked, as `danlu serve` does it. Elsewhere the key is the server's, or one
that danlu makes and keeps in DANLU_HOME. A session is signed with the key, so it outlives the
server's restart, and ends where the key changes.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from http.cookies import CookieError, SimpleCookie

from starlette.datastructures import Headers
from starlette.responses import Response

from danlu.files.atomic import append_line, make_folder
from danlu.files.home import danlu_home
from danlu.server.edge.keys import is_loopback, key_texts
from danlu.web.settings import WebSettings

KEY_FILE = "studio.key"
_DAYS = 30


class Sessions:
    """Sessions signed with the first key; without keys none is needed."""

    def __init__(self, keys: Sequence[str], *, port: int) -> None:
        self._secret = hashlib.sha256(f"studio {keys[0]}".encode()).digest() if keys else b""
        # Cookies do not know ports: two studios on one machine would end each other's sessions.
        self._cookie = f"danlu_{port}"
        self._link = secrets.token_urlsafe(24)
        self._ended: set[str] = set()

    @property
    def link(self) -> str:
        """The word that opens a session once."""
        return self._link

    def use_link(self, word: str) -> bool:
        """Whether it is the word of the link; it is used up with that."""
        if not hmac.compare_digest(word.encode(), self._link.encode()):
            return False
        self._link = secrets.token_urlsafe(24)
        return True

    def give(self, response: Response) -> None:
        """Give a session to whoever gets this response; no other site's page can use it."""
        name = secrets.token_urlsafe(12)
        response.set_cookie(
            self._cookie,
            f"{name}.{self._signature(name)}",
            max_age=_DAYS * 24 * 3600,
            path=None,  # the studio's own folder, behind a prefix too
            httponly=True,
            samesite="strict",
        )

    def end(self, headers: Headers, response: Response) -> None:
        """End the session that a request shows; its cookie opens nothing any more."""
        if (name := self._name(headers)) is not None:
            self._ended.add(name)
        response.delete_cookie(self._cookie, path="")

    def holder(self, headers: Headers) -> str | None:
        """Name the session that a request shows; None without a good one."""
        name = self._name(headers)
        return None if name is None or name in self._ended else f"session {name[:8]}"

    def _name(self, headers: Headers) -> str | None:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return None
        if self._cookie not in cookies or not self._secret:
            return None
        name, _dot, signature = cookies[self._cookie].value.partition(".")
        good = hmac.compare_digest(signature.encode(), self._signature(name).encode())
        return name if good else None

    def _signature(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()


def studio_keys(settings: WebSettings) -> list[str]:
    """Return the server's keys; elsewhere than on loopback danlu makes one where there is none.

    Raises what `key_texts` raises.
    """
    file = danlu_home() / KEY_FILE
    named = settings.api_key is not None or settings.api_key_file is not None
    if named or is_loopback(settings.host):
        return key_texts(settings)
    if not file.exists():
        make_folder(file.parent)
        append_line(file, secrets.token_urlsafe(32), private=True)
    return key_texts(settings.model_copy(update={"api_key_file": str(file)}))
