"""The program itself, killed or told to stop at random moments, ends with the same bytes.

The few are for every change that lands (.ci/run), the many for `make soak`. At chosen moments it is
killed and stopped in every `make test` (test_faults.py, tests/cli/test_kill_and_resume.py).
"""

from __future__ import annotations

import itertools
import os
import pty
import random
import select
import shlex
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.runs.checkpoints import find_newest
from danlu.runs.manifest import is_run, read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.figures import figure, slowest
from tests.helpers.program import start
from tests.helpers.training.whole_run import RESUME, Place, slow_behind, wait_for_step

# Longer than two microsteps and a save of this model by far; other programs compute meanwhile.
EXIT_LIMIT_S = 10.0
# The terminal at its standard input is the one that controls it, as in a shell.
IN_TERMINAL = """
import fcntl, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
"""
Stop = Callable[[subprocess.Popen[bytes], "Terminal"], None]
SOAK = [pytest.mark.soak, pytest.mark.timeout(7200)]


def words_to_go_on(place: Place, name: str) -> list[str]:
    """Resume where there is something to resume from; else start again."""
    run = place.folder / name
    resumes = is_run(run) and find_newest(run).newest is not None
    return [*place.words(name), *(RESUME if resumes else ("--overwrite_output_dir", "true"))]


def finish(place: Place, name: str) -> None:
    """Let a run come to its end, which must be that of the undisturbed one."""
    assert main(words_to_go_on(place, name)) == 0
    place.assert_as_if_undisturbed(name)


@pytest.mark.parametrize("kills", [pytest.param(count, marks=SOAK) for count in (5, 30)])
def test_killed_at_random_moments(place: Place, kills: int) -> None:
    draw = random.Random(kills)
    names = (f"killed-{kills}-{number}" for number in itertools.count())
    name = next(names)
    for number in range(kills):
        words = words_to_go_on(place, name)
        with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout.readline()  # it has read its data
            if number % 2:
                wait_for_draft(process, place.folder / name)
            else:
                time.sleep(draw.uniform(0, 1.5))
            process.kill()
            code = process.wait()
        assert code in (0, -signal.SIGKILL)
        run = place.folder / name
        if code == 0 or (is_run(run) and read_manifest(run).state == "finished"):
            place.assert_as_if_undisturbed(name)
            name = next(names)
    finish(place, name)
    figure("kills at random moments", kills)


def wait_for_draft(process: subprocess.Popen[bytes], run: Path) -> None:
    """Return while a checkpoint is being written, or when the process has ended."""
    while process.poll() is None:
        if run.is_dir() and any(".draft-" in name for name in os.listdir(run)):
            return
        time.sleep(0.0005)


class Terminal:
    """A terminal whose user types, looks, and may close the window."""

    def __init__(self) -> None:
        self._user, self.program = pty.openpty()
        self._mode = termios.tcgetattr(self.program)
        self._shown = b""
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._look)
        self._reader.start()

    def _look(self) -> None:
        while select.select([self._user], [], [], 0.05)[0] or not self._closing.is_set():
            if select.select([self._user], [], [], 0)[0]:
                self._shown += os.read(self._user, 4096)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._user, keys)

    def close_window(self) -> None:
        """Let go of the user's side: the programs get SIGHUP, and what they write fails."""
        self._closing.set()
        self._reader.join()
        os.close(self._user)

    def assert_restored(self) -> None:
        """Its mode is as it was, the cursor can be seen, and danlu's last words are there."""
        self._closing.set()
        self._reader.join()
        assert termios.tcgetattr(self.program) == self._mode
        assert b"\x1b[?25l" in self._shown  # there was a live bar
        assert self._shown.rfind(b"\x1b[?25h") > self._shown.rfind(b"\x1b[?25l")
        os.close(self._user)


def interrupt(process: subprocess.Popen[bytes], terminal: Terminal) -> None:
    terminal.type(b"\x03")


def interrupt_twice(process: subprocess.Popen[bytes], terminal: Terminal) -> None:
    terminal.type(b"\x03")
    terminal.type(b"\x03")


def terminate(process: subprocess.Popen[bytes], terminal: Terminal) -> None:
    process.terminate()


def hang_up(process: subprocess.Popen[bytes], terminal: Terminal) -> None:
    process.send_signal(signal.SIGHUP)


def close_window(process: subprocess.Popen[bytes], terminal: Terminal) -> None:
    terminal.close_window()


STOPS = [interrupt, terminate, hang_up, interrupt_twice, close_window]


def stop_in_terminal(words: list[str], run: Path, step: int, stop: Stop) -> float:
    """Run danlu in a terminal, stop it after a step; return the seconds until it had ended."""
    terminal = Terminal()
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal.program)
    program = slow_behind(step, IN_TERMINAL)
    with start(words, program=program, start_new_session=True, **streams) as process:
        wait_for_step(process, run, step)
        began = time.perf_counter()
        stop(process, terminal)
        done = last_step(run)
        assert process.wait(EXIT_LIMIT_S) == 130
        seconds = time.perf_counter() - began
    if stop is not close_window:
        terminal.assert_restored()
    os.close(terminal.program)
    assert last_step(run) <= done + 1  # the step in flight may just have been done
    return seconds


def stop_by_closing_stdout(words: list[str], run: Path, step: int) -> float:
    """Run danlu into a pipe whose reader goes away, as `danlu train | head` does."""
    words = [*words, "--logging_steps", "1"]
    program = slow_behind(step)
    with start(words, program=program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_step(process, run, step)
        began = time.perf_counter()
        process.stdout.close()
        assert process.wait(EXIT_LIMIT_S) == 130
        seconds = time.perf_counter() - began
        assert b"Go on with: " in process.stderr.read()
    return seconds


def last_step(run: Path) -> int:
    """The last step that stands in the metrics."""
    step: int = read_metrics(run)[-1]["step"]
    return step


@pytest.mark.parametrize("rounds", [pytest.param(count, marks=SOAK) for count in (1, 17)])
def test_stopped_at_random_moments(place: Place, rounds: int) -> None:
    draw = random.Random(rounds)
    count = 0
    for number in range(rounds):
        name = f"stopped-{rounds}-{number}"
        run = place.folder / name
        for stop in [*STOPS, None]:
            # Beyond what the metrics hold, which after a hard stop is more than the checkpoint has:
            # else the signal would come before danlu listens.
            metrics = read_metrics(run)
            step = (metrics[-1]["step"] if metrics else 0) + draw.randint(1, 3)
            words = words_to_go_on(place, name)
            if stop is None:
                seconds = stop_by_closing_stdout(words, run, step)
            else:
                seconds = stop_in_terminal(words, run, step, stop)
            if stop is not interrupt_twice:
                assert read_manifest(run).state == "interrupted"
                search = find_newest(run)
                assert search.newest is not None
                assert search.newest.step == last_step(run)
            slowest("from a signal to the end", seconds)
            count += 1
        finish(place, name)
    figure("signals at random moments", count)


def test_a_reader_that_leaves_before_the_first_step_has_not_seen_a_finished_run(
    place: Place,
) -> None:
    words = place.words("unread")
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 130
    (line,) = said.splitlines()
    going_on = shlex.split(line.partition("Go on with: ")[2])
    assert going_on[-len(words) - len(RESUME) :] == [*words, *RESUME]
    finish(place, "unread")


def test_a_second_run_on_the_same_folder_is_refused_until_the_first_is_dead(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words, run = place.words("shared"), place.folder / "shared"
    with start(words, program=slow_behind(25), stdout=subprocess.DEVNULL) as process:
        wait_for_step(process, run, 25)
        process.send_signal(signal.SIGSTOP)  # a machine that is slow, not dead
        try:
            for extra in (RESUME, ("--overwrite_output_dir", "true")):
                assert main([*words, *extra]) == 2
                assert f"Process {process.pid} " in capsys.readouterr().err
        finally:  # nobody else ends what is stopped
            process.kill()
    finish(place, "shared")
