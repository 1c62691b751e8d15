"""What several tests of reliability share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers.faulty_disk import HastyDisk, installed
from tests.helpers.training.whole_run import Place


@pytest.fixture(autouse=True)
def _hasty_disk() -> Iterator[None]:
    """Let what this process writes not wait for the medium; those it starts do wait."""
    with installed(HastyDisk()):
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A model, rows, and the run that nobody disturbed."""
    return Place(tmp_path_factory.mktemp("runs"))
