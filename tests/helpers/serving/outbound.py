"""Watches that a process makes no connection to another machine."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest


class Outbound:
    """Refuses connections and name lookups that leave this machine; `tried` are the targets."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the watch into the socket class, below every library."""
        watch = self
        real = socket.socket

        class Watched(real):  # type: ignore[misc, valid-type]
            def connect(self, address: Any) -> None:
                watch.check(address)
                super().connect(address)

            def connect_ex(self, address: Any) -> int:
                watch.check(address)
                return int(super().connect_ex(address))

            def sendto(self, *words: Any) -> int:
                watch.check(words[-1])
                return int(super().sendto(*words))

        monkeypatch.setattr(socket, "socket", Watched)
        lookup = socket.getaddrinfo

        def look_up(host: Any, *words: Any, **named: Any) -> Any:
            watch.check((host,))
            return lookup(host, *words, **named)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    def check(self, address: Any) -> None:
        """Refuse an address elsewhere."""
        if not isinstance(address, tuple):
            return  # a socket in the file system
        host = str(address[0] or "localhost")
        if not _is_here(host):
            self.tried.append(host)
            raise AssertionError(f"a connection to {host} was tried")


def _is_here(host: str) -> bool:
    if host in ("localhost", "0.0.0.0", "::"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
