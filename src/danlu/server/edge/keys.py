"""The keys that programs must show: where they come from, and how one is recognised.

Only digests are kept, so that no error message, log or memory dump shows a key. Must not know HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import shlex
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import UsageError
from danlu.language import _
from danlu.reasons import as_sentence, system_reason
from danlu.server.settings import ServeSettings

# Makes a key that cannot be guessed, in a file that others cannot read.
MAKE_KEY = "(umask 077; python3 -c 'import secrets; print(secrets.token_urlsafe(32))' > danlu.key)"
_MAX_FILE_BYTES = 65536


@dataclass(frozen=True, kw_only=True)
class Keys:
    """The digests of the keys that are accepted; without any, no key is asked for."""

    digests: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    @classmethod
    def of(cls, keys: Iterable[str]) -> Keys:
        """Keep the digests of keys."""
        return cls(digests=tuple(sorted({_digest(key) for key in keys})))

    def recognise(self, authorization: str) -> str | None:
        """Name the key in an Authorization header, `Bearer KEY`; None where it is not accepted.

        The name is the beginning of the key's digest. Every key is compared, each in a time that
        does not depend on where the first difference is.
        """
        scheme, _space, key = authorization.strip().partition(" ")
        shown = _digest(key.strip())
        found = [hmac.compare_digest(shown, digest) for digest in self.digests]
        return shown.hex()[:8] if scheme.lower() == "bearer" and any(found) else None


def key_texts(settings: ServeSettings) -> list[str]:
    """Return the keys of a server's settings.

    Raises UsageError for a file that cannot be used or that others can read, for a key that no
    header could carry, and for an address that others can reach without a key.
    """
    keys: list[str] = []
    if settings.api_key is not None:
        keys.append(_checked(settings.api_key.get_secret_value(), "--api_key, DANLU_API_KEY"))
    if settings.api_key_file is not None:
        keys += _keys_in(Path(settings.api_key_file).expanduser())
    if not keys and not is_loopback(settings.host):
        raise UsageError(
            _("A server on {host} needs a key.").format(host=settings.host),
            why=_("Everybody who can reach this address could use the model."),
            fix=f"{MAKE_KEY}; danlu serve ... --host {settings.host} --api_key_file danlu.key",
        )
    return list(dict.fromkeys(keys))


def is_loopback(host: str) -> bool:
    """Tell whether only programs of this machine can reach an address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False  # a name, which may mean anything


def _keys_in(path: Path) -> list[str]:
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise _unusable(path, _("It is no ordinary file."))
        if facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise UsageError(
                _("Others can read the key file {path}.").format(path=path),
                why=_("Its mode is {mode}.").format(mode=f"{facts.st_mode & 0o777:o}"),
                fix=f"chmod 600 {shlex.quote(str(path))}",
            )
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise _unusable(path, system_reason(problem)) from problem
    if len(text) > _MAX_FILE_BYTES:
        raise _unusable(path, _("It is larger than 64 KiB."))
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    keys = [_checked(line, str(path)) for line in lines if line and not line.startswith("#")]
    if not keys:
        raise _unusable(path, _("It holds no key."))
    return keys


def _unusable(path: Path, why: str) -> UsageError:
    return UsageError(
        _("The key file {path} cannot be used.").format(path=path),
        why=as_sentence(why),
        fix=MAKE_KEY,
    )


def _checked(key: str, place: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            _("There is a key that cannot be used."),
            why=_(
                "It comes from: {place}. A key is letters, digits and signs without spaces."
            ).format(place=place),
            fix=MAKE_KEY,
        )
    return key


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
