"""How long it takes until a fresh process has done something: each time a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from benchmarks.device_check.part import Report

# What is started, as Python programs; KIND stands for the device.
_PROGRAMS = {
    "import torch": "import torch",
    "import danlu, choose operations": (
        "from danlu.device.detect import select; from danlu.ops import ops_table; "
        "ops_table(select('KIND').torch_device)"
    ),
    "starter's first token": (
        "from danlu.dialog.assistant import open_assistant; "
        "from danlu.dialog.settings import ModelSettings; from danlu.workflows.demo import ask; "
        "next(iter(ask(open_assistant(ModelSettings(device='KIND')), 'Hello')))"
    ),
    "starter's first step": (
        "from danlu.doctor.selftest import SelfTest, _own_home; "
        "from danlu.workflows.demo import Demo; test = SelfTest('KIND'); home = _own_home(); "
        "test._demo = Demo(home.__enter__()); next(iter(test.steps()))"
    ),
}


def run(settings: argparse.Namespace, report: Report) -> None:
    """Start each program twice: with what it caches on the disk missing, perhaps, and there."""
    for name, program in _PROGRAMS.items():
        with report.trying(name):
            times = []
            for _again in range(2):
                begun = time.perf_counter()
                words = [sys.executable, "-c", program.replace("KIND", settings.device)]
                # Where time is over the part ends, and with it what it has started.
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(done.stderr[-2000:])
                times.append(time.perf_counter() - begun)
            report.put(name, times, f"first {times[0]:.1f} s, again {times[1]:.1f} s")
