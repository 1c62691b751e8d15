"""What holds for the tests of training."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _what_earlier_tests_keep_costs_nothing() -> None:
    """Leave out of collections of garbage what is there: runs collect wherever memory runs out.

    A collection walks all that is left of the tests before, each time.
    """
    gc.collect()
    gc.freeze()
