"""Operations that compute with another variant than the one that was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from danlu.ops.choice import Operation

T = TypeVar("T")


@contextmanager
def taken(operation: Operation[T], name: str, kind: str = "cpu") -> Iterator[None]:
    """Compute with a variant on a kind of device for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(operation._chosen, kind, (name, operation.variants[name]))
        yield
