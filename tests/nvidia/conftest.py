"""Runs the kernels of `ops/nvidia` on the CPU, in Triton's interpreter.

Triton reads the variable when a kernel's module is imported, which only these tests do.
"""

from __future__ import annotations

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"
pytest.importorskip("triton", reason="no Triton: pip install triton")
