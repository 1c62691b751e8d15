"""S13: versions in which known holes of the web libraries are closed, and no routes to others."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

from tests.helpers.source import danlu_modules

# CVE-2025-62727 and CVE-2024-47874 (starlette), CVE-2025-43859 (h11).
FLOORS = {"starlette": "0.49.1", "h11": "0.16.0"}
# Files by a path of the request, and forms: neither is needed, both had holes.
UNUSED = ("StaticFiles", "FileResponse", "multipart", "UploadFile", "Form")


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_floors(name: str, floor: str) -> None:
    assert Version(version(name)) >= Version(floor)


def test_what_is_not_used() -> None:
    used = [
        f"{module.where}: {name}"
        for module in danlu_modules().values()
        if module.room == "server"
        for name in module.imports
        if name.rpartition(".")[2] in UNUSED
    ]
    assert not used
