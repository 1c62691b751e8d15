"""Committed folders appear whole, are verified, and clean up after dead writers."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danlu.errors import CapacityError, DataError, EnvironmentFault
from danlu.files import disk
from danlu.files.committed import MANIFEST, committed_folder, discard, retire, verify
from danlu.files.leftovers import clean_leftovers, locked
from danlu.files.lock import is_locked
from danlu.files.process import this_process
from tests.helpers.faulty_disk import FailingReads, RefusingDisk, failing_reads


def make(path: Path, content: bytes = b"content") -> None:
    with committed_folder(path) as draft:
        draft.write("a", content)
        with draft.stream("b") as write:
            write(b"one ")
            write(memoryview(b"two"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_holds_what_was_written(tmp_path: Path) -> None:
    make(tmp_path / "deep" / "out")
    assert names(tmp_path / "deep") == {"out"}
    assert names(tmp_path / "deep" / "out") == {"a", "b", MANIFEST}
    assert (tmp_path / "deep" / "out" / "b").read_bytes() == b"one two"
    assert set(verify(tmp_path / "deep" / "out")) == {"a", "b"}
    manifest = json.loads((tmp_path / "deep" / "out" / MANIFEST).read_bytes())
    assert manifest["files"]["a"]["size"] == 7


def test_an_error_in_the_body_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with committed_folder(tmp_path / "out") as draft:
            draft.write("a", b"")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert names(tmp_path) == set()


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "DISK", RefusingDisk(errno.ENOSPC, "sync"))
    with pytest.raises(CapacityError, match="out/a"):
        make(tmp_path / "out")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["", "..", "../y", "x/", "x/./y", "/y", MANIFEST, "a"])
def test_names_stay_inside_and_are_used_once(tmp_path: Path, name: str) -> None:
    with committed_folder(tmp_path / "out") as draft:
        draft.write("a", b"")
        with pytest.raises(ValueError, match="usable"):
            draft.write(name, b"")


def test_files_in_subfolders_are_written_and_verified(tmp_path: Path) -> None:
    with committed_folder(tmp_path / "out") as draft:
        draft.write("a/b/c", b"deep")
        draft.write("a/d", b"beside")
    assert verify(tmp_path / "out") == ("a/b/c", "a/d")
    (tmp_path / "out" / "a" / "b" / "c").write_bytes(b"DEEP")
    with pytest.raises(DataError, match="out/a/b/c"):
        verify(tmp_path / "out")


def test_replaces_an_existing_folder(tmp_path: Path) -> None:
    make(tmp_path / "out", b"first")
    make(tmp_path / "out", b"second")
    assert (tmp_path / "out" / "a").read_bytes() == b"second"
    assert names(tmp_path) == {"out"}


@settings(max_examples=30)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        make(path)
        file = path / data.draw(st.sampled_from(["a", "b"]))
        content = bytearray(file.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
        file.write_bytes(content)
        with pytest.raises(DataError, match=file.name):
            verify(path)


@pytest.mark.parametrize("number", range(1, 9))
def test_an_unreadable_file_is_named(tmp_path: Path, number: int) -> None:
    make(tmp_path / "out")
    reads = FailingReads(tmp_path, number)
    with failing_reads(reads), pytest.raises(DataError) as caught:
        verify(tmp_path / "out")
    assert str(reads.failed) in caught.value.what


def test_a_refused_file_is_not_called_damaged(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with (
        failing_reads(FailingReads(tmp_path, 3, errno.EACCES)),
        pytest.raises(EnvironmentFault, match="out/a"),
    ):
        verify(tmp_path / "out")


@pytest.mark.parametrize("damage", ["missing", "short", "no manifest", "bad manifest"])
def test_damage_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "out"
    make(path)
    if damage == "missing":
        (path / "a").unlink()
    elif damage == "short":
        (path / "a").write_bytes(b"cont")
    elif damage == "no manifest":
        (path / MANIFEST).unlink()
    else:
        (path / MANIFEST).write_text('{"version": 1, "files": {"../a": {}}}')
    with pytest.raises(DataError) as caught:
        verify(path)
    expected = path / (MANIFEST if "manifest" in damage else "a")
    assert str(expected) in caught.value.what


def test_drafts_of_a_killed_writer_are_cleaned(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from danlu.files.committed import committed_folder\n"
        "with committed_folder(Path(sys.argv[1])) as draft:\n"
        "    draft.write('a', b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "out")], check=False)
    assert len(names(tmp_path)) == 1
    make(tmp_path / "out")
    assert names(tmp_path) == {"out"}


def test_a_living_writer_keeps_its_draft(tmp_path: Path) -> None:
    with committed_folder(tmp_path / "out") as draft:
        draft.write("a", b"outer")
        clean_leftovers(tmp_path)
    verify(tmp_path / "out")


def test_a_reused_process_number_does_not_keep_a_draft(tmp_path: Path) -> None:
    me = this_process()
    (tmp_path / f".out.draft-{os.getpid()}-{me.started - 1}-{me.host}-0").mkdir()
    clean_leftovers(tmp_path)
    assert names(tmp_path) == set()


def test_a_draft_that_a_container_of_the_same_name_still_writes_is_left(tmp_path: Path) -> None:
    draft = tmp_path / f".out.draft-999999999-5-{this_process().host}-0"
    draft.mkdir()
    with locked(draft):
        make(tmp_path / "out")
        assert draft.exists()
    make(tmp_path / "out")
    assert names(tmp_path) == {"out"}


def test_a_draft_is_locked_until_it_is_in_place(tmp_path: Path) -> None:
    with committed_folder(tmp_path / "out") as draft:
        handle = os.open(draft.path, os.O_RDONLY)
        assert is_locked(handle)
    assert not is_locked(handle)
    os.close(handle)


@pytest.mark.parametrize("name", ["a", MANIFEST])
def test_a_pipe_in_a_files_place_is_named(tmp_path: Path, name: str) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / name).unlink()
    os.mkfifo(tmp_path / "out" / name)
    with pytest.raises(DataError, match=name):
        verify(tmp_path / "out")


def test_retired_folders_are_kept_apart(tmp_path: Path) -> None:
    places = []
    for number in range(3):
        make(tmp_path / "out", b"%d" % number)
        places.append(retire(tmp_path / "out"))
    assert names(tmp_path) == {".trash"}
    assert [(place / "a").read_bytes() for place in places] == [b"0", b"1", b"2"]


def test_discarded_folders_are_gone(tmp_path: Path) -> None:
    make(tmp_path / "out")
    discard(tmp_path / "out")
    assert names(tmp_path) == set()
