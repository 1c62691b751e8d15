"""The four packages of data/ import each other in one direction: a row's way, seen from its end."""

from __future__ import annotations

from tests.helpers.source import danlu_modules

# From the roof to the ground; the modules beside them are shared.
PACKAGES = ("doctor", "tokens", "formats", "reading")


def package_of(name: str) -> str:
    """Return the package of data/ that a dotted name is in; empty for all others."""
    return name.removeprefix("danlu.data.").split(".")[0] if name.startswith("danlu.data.") else ""


def test_imports_go_from_the_doctor_down_to_reading() -> None:
    for name, module in danlu_modules().items():
        mine = package_of(name)
        if mine not in PACKAGES:
            continue
        for imported, line in module.imports.items():
            other = package_of(imported)
            if other in PACKAGES:
                assert PACKAGES.index(mine) <= PACKAGES.index(other), f"{module.where}:{line}"
