"""Machines with a card and without what Triton needs: all else computes, and what to type is said.

In processes of their own, which Triton believes to have a card: what fails is Triton's own start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TABLE = """
import json, sys, sysconfig
if "{without}" == "triton": sys.modules["triton"] = None
import torch
from danlu import ops
from danlu.device import variants
from danlu.ops import choice
torch.cuda.is_available = lambda: True
torch.cuda.get_device_capability = lambda device=None: (9, 0)
choice.preferred_variants = lambda kind: variants._VARIANTS["cuda"]
if "{without}" == "headers": sysconfig.get_path = lambda name: "/nowhere"
table = ops.ops_table(torch.device("cpu"))
print(json.dumps([table.chosen, table.off, table.not_built]))
"""
LACKING = {
    "triton": ({}, "not installed", "pip install triton"),
    "compiler": ({"PATH": "/nowhere"}, "C compiler", "apt-get install gcc libc6-dev"),
    "headers": ({"CC": "false"}, "/nowhere/Python.h", "-dev"),
    "folder": ({"TRITON_CACHE_DIR": __file__}, __file__, "export TRITON_CACHE_DIR="),
    "more": ({"CC": "false"}, "non-zero exit status", ""),
}


@pytest.mark.parametrize("without", LACKING)
def test_it_is_said_once_and_torch_computes(without: str, tmp_path: Path) -> None:
    given, says, command = LACKING[without]
    kept = {name: text for name, text in os.environ.items() if name not in ("CC", "DANLU_OPS")}
    kept.pop("TRITON_INTERPRET", None)
    there = {"TRITON_CACHE_DIR": str(tmp_path), "TRITON_LIBCUDA_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TABLE.replace("{without}", without)],
        env={**kept, "DANLU_LANG": "en", **there, **given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    chosen, off, not_built = json.loads(done.stdout)
    (reason,) = not_built
    assert "no kernels for the NVIDIA card" in reason
    assert says in reason
    assert command in reason
    assert "triton" not in chosen.values()
    assert not [text for text in off if "triton" in text]
    assert chosen["rms_norm"] == "torch"
