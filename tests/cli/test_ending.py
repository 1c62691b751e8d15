"""How the program ends: at a Ctrl-C while it loads, and with threads that still compute."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tests.helpers.program import start

# A library that loses the exception a Ctrl-C raises in the middle of its import, as some do.
LOST = """
import os, signal, sys, time
class Losing:
    def find_spec(self, name, *_further):
        if name == "danlu.cli.machine.info":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)
            except KeyboardInterrupt:
                pass
sys.meta_path.insert(0, Losing())
sys.argv = ["danlu", "info"]
from danlu.cli.main import program
program()
"""
# A server that is asked to end while it still loads.
COMPUTING = """
import sys, threading, time
import torch
from danlu.cli import main
def run(_words):
    numbers = torch.ones(300, 300)
    def compute():
        while True:
            numbers @ numbers
    threading.Thread(target=compute, daemon=True).start()
    time.sleep(0.3)
    print("said")
    return 7
sys.modules["danlu.cli.machine.info"] = type("Command", (), {"run": staticmethod(run)})
sys.argv = ["danlu", "info"]
main.program()
"""
# Torch has things to tidy up at the end; that takes a while.
AT_THE_END = """
import atexit, os, signal, sys
from danlu.cli.main import program
sys.argv = ["danlu", "--version"]
import danlu.cli.main as main
usual = main.end_at_ctrl_c
def then(code):
    usual(code)
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
main.end_at_ctrl_c = then
program()
"""


def ending(program: str) -> tuple[int, str]:
    process: Any = start(
        [], program=program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, _nothing = process.communicate(timeout=60)
    return process.returncode, said


def test_ctrl_c_is_not_lost_while_a_library_is_imported() -> None:
    assert ending(LOST) == (130, "interrupted\n")


def test_it_ends_where_nobody_reads_what_it_says() -> None:
    process: Any = start([], program=LOST, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    process.stderr.close()
    assert process.wait(timeout=60) == 130


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_the_lead_says_it(rank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("RANK", rank)
    assert ending(LOST) == (130, "interrupted\n" if rank == "0" else "")


def test_a_thread_that_computes_does_not_abort_the_program() -> None:
    assert ending(COMPUTING) == (7, "said\n")


def test_ctrl_c_at_the_very_end_changes_nothing() -> None:
    code, said = ending(AT_THE_END)
    assert code == 0
    assert said.startswith("danlu ")
    assert "Traceback" not in said
