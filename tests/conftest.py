"""What holds for the whole suite, and for the programs it starts."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from danlu.environment import set_here
from tests.helpers.figures import FIGURES, add_figures, figures_line

# Commands are printed as they can be typed: here danlu alone suffices, as in an active environment.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
# Sentences are compared in English, whatever the language of the machine.
os.environ["DANLU_LANG"] = "en"
# Tiny models are slower with more threads, and much slower where another program computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Runs register themselves; the list of whoever runs the tests stays as it is.
os.environ["DANLU_HOME"] = tempfile.mkdtemp(prefix="danlu-tests-")
atexit.register(shutil.rmtree, os.environ["DANLU_HOME"], ignore_errors=True)
# hypothesis' limit of 200 ms an example is by the clock: a busy machine exceeds it.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
# A script's background job ignores Ctrl-C, and what nohup starts a hang-up; so would the programs
# that tests stop in these ways.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let workers begin as this process did: what danlu has set here would pass for the user's."""
    for name in set_here():
        del os.environ[name]


def pytest_collection_finish() -> None:
    """Keep what has been imported out of collections of garbage, which take 0.2 s each with it."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was measured, where this process is one of several."""
    gc.unfreeze()  # else libraries call what is there at the end leaked
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["figures"] = dict(FIGURES)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what one of several processes measured; one that crashed has nothing."""
    add_figures(getattr(node, "workeroutput", {}).get("figures", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests of reliability measured."""
    if line := figures_line():
        terminalreporter.write_line(line)
