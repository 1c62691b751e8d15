"""What holds for the tests of training."""

from __future__ import annotations

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def _what_earlier_tests_keep_costs_nothing() -> None:
    """Leave out of collections of garbage what is there: runs collect wherever memory runs out.

    After thousands of tests each collection takes more than half a second with it.
    """
    gc.collect()
    gc.freeze()
