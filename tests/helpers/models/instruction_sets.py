"""The C++ kernels of one instruction set after the other, as far as this processor has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from danlu.ops.choice import NotHere
from danlu.ops.native.library import Library
from native import build

# Of every machine.
INSTRUCTION_SETS = tuple(name for sets in build.INSTRUCTION_SETS.values() for name in sets)


def _runs(isa: str) -> bool:
    try:
        Library(isa=isa)
    except NotHere:
        return False
    return True


@pytest.fixture(params=[isa for isa in INSTRUCTION_SETS if _runs(isa)])
def each_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute with an instruction set, then with the best again."""
    Library(isa=request.param)
    yield request.param
    Library()


with suppress(NotHere):
    Library()  # the best, as it was
