"""What several tests of reliability share."""

from __future__ import annotations

import pytest

from tests.helpers.whole_run import Place


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model, rows, and the run that nobody disturbed."""
    return Place(tmp_path_factory.mktemp("runs"))
