"""Whether Triton can make kernels on this machine; where it cannot, why, and what to type.

Before its first kernel Triton compiles some C of its own against Python's headers and links it with
the driver's library; what it makes it keeps in a folder. Its wheel brings none of that: an image
without gcc has a card and no kernels. All operations would fail alike, so it is asked once.
"""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from danlu.files.home import danlu_home
from danlu.language import _
from danlu.ops.choice import NotBuilt
from danlu.program import own_pip

# As in Triton's runtime/build.py, where it looks for the compiler.
_NO_COMPILER = "Failed to find C compiler"


def require_triton() -> None:
    """Raise NotBuilt where Triton cannot start."""
    reason = _why_not()
    if reason is not None:
        raise NotBuilt(_("no kernels for the NVIDIA card: {reason}").format(reason=reason))


@cache
def _why_not() -> str | None:
    if find_spec("triton") is None:
        return _with_command(
            _("Triton, which makes them, is not installed"), f"{own_pip()} install triton"
        )
    try:
        import_module("triton.runtime.driver").driver.active.utils  # noqa: B018, it is made here
    except Exception as fault:
        return _reason(fault)
    return None


def _reason(fault: Exception) -> str:
    """Say why Triton did not start, and what helps where that is known."""
    header = Path(sysconfig.get_path("include"), "Python.h")
    if _NO_COMPILER in str(fault):
        return _with_command(
            _("Triton needs a C compiler, and there is none"), "apt-get install gcc libc6-dev"
        )
    if isinstance(fault, PermissionError) or (isinstance(fault, OSError) and fault.filename):
        return _with_command(
            _("Triton cannot use its folder ({reason})").format(reason=fault),
            f"export TRITON_CACHE_DIR={danlu_home() / 'triton'}",
        )
    if not header.is_file():
        return _with_command(
            _("Triton needs Python's headers, and {file} is missing").format(file=header),
            f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev",
        )
    words = " ".join(str(fault).split()) or type(fault).__name__
    return _("Triton does not start ({reason})").format(reason=words)


def _with_command(what: str, command: str) -> str:
    return _("{what}. This helps: {command}").format(what=what, command=command)
