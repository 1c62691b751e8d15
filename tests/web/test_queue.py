"""The queue of trainings: one at a time, in order, also where the server comes and goes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.errors import UsageError
from danlu.files.detached import holder_of_lock, start_detached
from danlu.runs.registry import registered_folders, run_id
from danlu.web.database import Database
from danlu.web.training.queue import TrainingQueue
from tests.helpers.waiting import wait_until

# In danlu's place: it holds its run until a file lets it go, then leaves a run as danlu does.
STAND_IN = """
import sys, time, yaml
from datetime import datetime, timezone
from pathlib import Path
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest

settings = yaml.safe_load(open(sys.argv[2]))
folder = Path(settings["output_dir"])
if settings.get("seed") == 13:
    print("The data are bad.\\nRow 1 is empty.\\nRemove it")
    sys.exit(5)
now = lambda: datetime.now(timezone.utc).isoformat()
base = BaseRecord(name="starter", path="/s", fingerprint="f")
run = RunManifest(state="running", base=base, template="qwen3", enable_thinking=True, started=now())
with RunFolder.create(folder) as held:
    held.write(run)
    print("begun", flush=True)
    while not (folder.parent / f"{folder.name}-may-end").exists():
        time.sleep(0.01)
    held.write(run.changed(state="finished", detail="3 steps", ended=now()))
"""
PROGRAM = (sys.executable, "-c", STAND_IN)


class Place:
    """A home with a queue; another one on the same home is a server that has come back."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.database = Database(home / "studio.db")
        self.queue = TrainingQueue(self.database, PROGRAM)

    def add(self, name: str, **settings: object) -> str:
        folder = self.home / name
        return self.queue.add({"output_dir": str(folder), **settings}, folder).id

    def states(self) -> dict[str, str]:
        return {entry.folder.name: entry.state for entry in self.queue.shown()}

    def begun(self, name: str) -> None:
        """Let the queue start, and wait until this run has its folder."""
        self.queue.advance()
        wait_until(lambda: (self.home / name / "run.json").exists())

    def end(self, name: str) -> None:
        """Let a run end, and wait until its process is gone."""
        (self.home / f"{name}-may-end").touch()
        entry = self.queue.of_run(run_id(self.home / name))
        assert entry is not None
        lock = self.queue.log_file(entry.id).with_suffix(".lock")
        wait_until(lambda: holder_of_lock(lock) is None)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    made = Place(tmp_path)
    yield made
    for entry in made.queue.shown():
        if entry.state == "running":
            made.queue.stop_before_its_run(entry)
    made.database.close()


def test_one_runs_and_the_rest_wait_in_order(place: Place) -> None:
    for name in ("first", "second", "third"):
        place.add(name)
    place.begun("first")
    place.queue.advance()
    assert place.states() == {"first": "running", "second": "waiting", "third": "waiting"}
    third = place.queue.of_run(run_id(place.home / "third"))
    assert third is not None
    place.queue.order([third.id])
    place.end("first")
    place.begun("third")
    assert place.states() == {"third": "running", "second": "waiting", "first": "finished"}
    # Runs that have begun are in danlu's own list, as those of the terminal.
    assert place.home / "first" in registered_folders()


def test_what_waits_can_be_taken_out_and_what_runs_cannot(place: Place) -> None:
    first, second = place.add("first"), place.add("second")
    place.begun("first")
    place.queue.remove(second)
    assert place.states() == {"first": "running"}
    with pytest.raises(UsageError, match="running"):
        place.queue.remove(first)


def test_a_run_stands_in_the_queue_once(place: Place) -> None:
    place.add("first")
    with pytest.raises(UsageError, match="in the queue already"):
        place.add("first")


def test_a_server_that_comes_back_goes_on_with_the_queue(place: Place) -> None:
    place.add("first")
    place.add("second")
    place.begun("first")
    place.database.close()  # the server is gone; the training goes on
    again = Place(place.home)
    again.queue.advance()
    assert again.states() == {"first": "running", "second": "waiting"}
    again.database.close()
    last = Place(place.home)
    last.end("first")  # while no server ran
    last.begun("second")
    assert last.states() == {"second": "running", "first": "finished"}
    place.database, place.queue = last.database, last.queue


def test_a_server_that_ended_before_the_start_starts_it_later(place: Place) -> None:
    entry = place.add("first")
    place.database.change("UPDATE queue SET state = 'running', started = 1 WHERE id = ?", (entry,))
    place.queue.advance()
    place.begun("first")
    assert place.states() == {"first": "running"}


def test_two_servers_do_not_start_two(place: Place) -> None:
    place.add("first")
    place.add("second")
    other = Place(place.home)
    place.begun("first")
    other.queue.advance()
    assert other.states() == {"first": "running", "second": "waiting"}
    other.database.close()


def test_what_was_refused_says_why(place: Place) -> None:
    place.add("first", seed=13)
    wait_until(lambda: place.queue.advance() and place.states() == {"first": "failed"})
    (entry,) = place.queue.shown()
    assert entry.detail == "The data are bad.\nRow 1 is empty.\nRemove it"


def test_a_training_that_was_killed_can_be_resumed(place: Place) -> None:
    entry = place.add("first")
    place.begun("first")
    pid = place.queue.get(entry).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: place.queue.advance() and place.states() == {"first": "failed"})
    assert "resumed" in place.queue.get(entry).detail


def test_a_damaged_run_lets_the_others_go_on(place: Place) -> None:
    place.add("one")
    place.add("two")
    place.begun("one")
    (place.home / "one" / "run.json").write_text('{"state": "runn')
    entry = place.queue.of_run(run_id(place.home / "one"))
    assert entry is not None
    assert entry.pid is not None
    os.kill(entry.pid, signal.SIGKILL)
    wait_until(lambda: place.queue.advance() or place.states()["one"] == "failed")
    place.begun("two")
    place.end("two")
    place.queue.advance()
    assert place.states() == {"one": "failed", "two": "finished"}


def test_a_process_outlives_its_starter_and_its_lock_says_so(tmp_path: Path) -> None:
    log, lock = tmp_path / "log", tmp_path / "lock"
    script = "import sys, time; print('here', flush=True); sys.stdin.read(); time.sleep(60)"
    pid = start_detached([sys.executable, "-c", script], log=log, lock=lock)
    wait_until(lambda: log.exists() and log.read_text() == "here\n")
    assert os.getsid(pid) != os.getsid(0)  # no Ctrl-C and no hang-up of this terminal reaches it
    holder = holder_of_lock(lock)
    assert holder is not None
    assert holder.pid == pid
    with pytest.raises(BlockingIOError):
        start_detached([sys.executable, "-c", ""], log=log, lock=lock)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: holder_of_lock(lock) is None)
