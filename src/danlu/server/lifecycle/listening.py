"""The socket a server listens on, bound before anything heavy is loaded: a port in use is an error
at once."""

from __future__ import annotations

import errno
import socket

from danlu.errors import EnvironmentFault, UsageError
from danlu.language import _
from danlu.reasons import as_sentence, reason_of, system_reason

# How many connections the system keeps until they are taken.
BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Bind and listen.

    Raises UsageError for an address that this machine does not have, EnvironmentFault for a port
    that is in use or not allowed.
    """
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as problem:
        raise _no_such_host(host, reason_of(problem)) from problem
    # A name such as localhost may mean addresses of both kinds; most clients try this one.
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    family, kind, protocol, _name, address = found[0]
    taken = socket.socket(family, kind, protocol)
    try:
        # Connections of a server that has just ended do not keep the port from its successor.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
        taken.listen(BACKLOG)
    except OSError as problem:
        taken.close()
        raise _explained(host, port, problem) from problem
    return taken


def url_of(taken: socket.socket) -> str:
    """Write the address that programs of this machine use."""
    host, port = taken.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _explained(host: str, port: int, problem: OSError) -> EnvironmentFault | UsageError:
    if problem.errno == errno.EADDRINUSE:
        return EnvironmentFault(
            _("Port {port} of {host} is in use.").format(port=port, host=host),
            why=_("Another program listens there, perhaps another danlu serve."),
            fix=_("Use --port {other}, or stop that program.").format(
                other=port + 1 if port < 65535 else 8000
            ),
        )
    if problem.errno == errno.EADDRNOTAVAIL:
        return _no_such_host(host, system_reason(problem))
    return EnvironmentFault(
        _("Port {port} of {host} cannot be used.").format(port=port, host=host),
        why=as_sentence(system_reason(problem)),
        fix=_("Use a port above 1023, for example --port 8000"),
    )


def _no_such_host(host: str, why: str) -> UsageError:
    return UsageError(
        _("This machine has no address {host}.").format(host=host),
        why=as_sentence(why),
        fix=_("Use --host 127.0.0.1, or --host 0.0.0.0 for all addresses of this machine."),
    )
