"""A browser and a studio for the tests of each file.

Both end with the file: while the browser runs, its driver's event loop does too, and tests of other
files in the same process could start none of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.helpers.browser import chromium, launched
from tests.helpers.studio_program import StudioProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as opened:
        yield opened


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StudioProgram]:
    chromium()
    program = StudioProgram(tmp_path_factory.mktemp("studio") / "home")
    yield program
    program.stop()
