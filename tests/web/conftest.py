"""Nothing that serves may connect to anywhere but this machine."""

from __future__ import annotations

import pytest

from tests.helpers.serving.outbound import Outbound


@pytest.fixture(autouse=True)
def outbound(monkeypatch: pytest.MonkeyPatch) -> Outbound:
    """Record and refuse connections to other machines, for every test of the server."""
    watch = Outbound()
    watch.install(monkeypatch)
    return watch
