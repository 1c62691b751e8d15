"""Gives a whole pytest process the simulated NPU, which danlu then takes by itself.

Programs that a test starts know nothing of it and compute on the CPU.

    pytest -p tests.sim.plugin tests/cli/test_train.py
"""

from __future__ import annotations

import pytest

from danlu.model import checkpointing
from tests.sim import npu


def pytest_configure(config: pytest.Config) -> None:
    if lacking := npu.missing_api():
        pytest.exit(f"no simulated NPU: {lacking}", returncode=0)
    npu.register()
    # A device written in Python has no allocator for pinned memory.
    checkpointing.to_host = lambda tensor: tensor.to("cpu")  # type: ignore[attr-defined]
