"""Names of hosts, as a Host header and `--allowed_host` write them.

Read strictly: what no browser would send is no name, so nothing can look like a name that is on a
list. Source: RFC 9110, section 7.2, and RFC 3986, section 3.2.2; names of registries other than
the DNS, and percent signs, are left out.
"""

from __future__ import annotations

import ipaddress
import re

_HOST = re.compile(
    r"(?:\[(?P<address>[0-9a-f:.]+)\]|(?P<name>[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::[0-9]*)?"
)


def host_name(host: str) -> str | None:
    """Return the name in a Host header, without port and final dot, in small letters.

    An IPv6 address stands in brackets, in its shortest form. None: it is no host.
    """
    found = _HOST.fullmatch(host.lower()) if host.isascii() else None
    if found is None:
        return None
    if found["name"] is not None:
        return found["name"]
    try:
        return f"[{ipaddress.IPv6Address(found['address'])}]"
    except ValueError:
        return None


def listed_name(name: str) -> str | None:
    """Return the same for a name in a setting, where an IPv6 address may lack its brackets."""
    return host_name(f"[{name}]" if name.count(":") > 1 and "[" not in name else name)
