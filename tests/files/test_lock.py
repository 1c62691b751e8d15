"""A folder has one writer, and dead ones do not count."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import UsageError
from danlu.files.lock import LOCK_FILE, FolderLock, Holder, holder_of
from danlu.files.process import this_process

HOLD = (
    "import sys, time; from pathlib import Path\n"
    "from danlu.files.lock import FolderLock\n"
    "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)\n"
)


def write_holder(folder: Path, *, pid: int, started: int) -> None:
    record = {"pid": pid, "started": started, "host": this_process().host}
    (folder / LOCK_FILE).write_text(json.dumps(record))


@pytest.fixture(params=["flock", "no flock"])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    if request.param == "no flock":
        monkeypatch.setattr(fcntl, "flock", unsupported)


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"Process {other.pid} is writing"):
            FolderLock(tmp_path)
        other.kill()
        other.wait()
    FolderLock(tmp_path).release()


@pytest.mark.usefixtures("_file_system")
def test_held_until_released(tmp_path: Path) -> None:
    with FolderLock(tmp_path), pytest.raises(UsageError, match=f"Process {os.getpid()} "):
        FolderLock(tmp_path)
    FolderLock(tmp_path).release()


@pytest.mark.usefixtures("_file_system")
@pytest.mark.parametrize("content", ["", "{", "[1]", '{"pid": "x"}'])
def test_a_garbled_lock_file_does_not_lock(tmp_path: Path, content: str) -> None:
    (tmp_path / LOCK_FILE).write_text(content)
    FolderLock(tmp_path).release()


@pytest.mark.usefixtures("_file_system")
def test_dead_and_reused_process_numbers_do_not_lock(tmp_path: Path) -> None:
    write_holder(tmp_path, pid=999999999, started=1)
    FolderLock(tmp_path).release()
    write_holder(tmp_path, pid=os.getpid(), started=this_process().started - 1)
    FolderLock(tmp_path).release()


def test_a_link_in_the_locks_place_is_refused_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim.txt").write_text("precious")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LOCK_FILE).symlink_to("../victim.txt")
    with pytest.raises(UsageError, match="is a link") as refused:
        FolderLock(folder)
    assert (tmp_path / "victim.txt").read_text() == "precious"
    assert refused.value.fix == f"rm {folder / LOCK_FILE}"
    assert holder_of(folder) is None


def test_a_pipe_in_the_locks_place_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / LOCK_FILE)
    assert holder_of(tmp_path) is None
    with pytest.raises(UsageError, match="no file"):
        FolderLock(tmp_path)


def test_a_text_that_names_a_process_does_not_make_it_the_holder(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as innocent:
        stat = Path(f"/proc/{innocent.pid}/stat").read_text()
        started = int(stat.rpartition(")")[2].split()[19])
        write_holder(tmp_path, pid=innocent.pid, started=started)
        assert holder_of(tmp_path) is None
        with FolderLock(tmp_path):
            assert holder_of(tmp_path) == Holder(pid=os.getpid())
            # The lock is held, but not by whom the text names.
            write_holder(tmp_path, pid=innocent.pid, started=started)
            assert holder_of(tmp_path) == Holder(pid=None)
            with pytest.raises(UsageError, match="cannot be seen from here"):
                FolderLock(tmp_path)
        assert holder_of(tmp_path) is None
        innocent.kill()


@pytest.mark.parametrize("pid", [-1, 0, 2**40, 1.5, True])
def test_no_number_of_a_group_or_of_nothing_is_taken_for_a_process(
    tmp_path: Path, pid: Any
) -> None:
    write_holder(tmp_path, pid=pid, started=0)
    assert holder_of(tmp_path) is None
    FolderLock(tmp_path).release()


def test_a_folder_moved_away_between_open_and_lock_is_not_what_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    real = fcntl.flock
    moves = iter([True])

    def move_then_lock(handle: int, how: int) -> None:
        if next(moves, False):
            folder.rename(tmp_path / "moved")
            folder.mkdir()
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", move_then_lock)
    lock = FolderLock(folder)
    assert json.loads((folder / LOCK_FILE).read_bytes())["pid"] == os.getpid()
    lock.release()
