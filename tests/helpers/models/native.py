"""The library of C++ kernels, where this machine has it."""

from __future__ import annotations

import pytest

from danlu.ops.choice import NotHere
from danlu.ops.native.library import library

try:
    library()
    _why_not = ""
except NotHere as reason:
    _why_not = str(reason)
needs_library = pytest.mark.skipif(bool(_why_not), reason=f"kernels for the CPU: {_why_not}")
