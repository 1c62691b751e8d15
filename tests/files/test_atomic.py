"""Single files survive failures whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.errors import CapacityError, EnvironmentFault, UsageError
from danlu.files import disk
from danlu.files.atomic import append_line, atomic_write, link_or_copy, make_folder
from danlu.files.leftovers import locked
from danlu.files.lock import is_locked
from danlu.files.os_errors import free_bytes, require_free
from danlu.files.process import this_process
from tests.helpers.faulty_disk import FaultyDisk, RefusingDisk, installed


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("content", [b"new", "new", [b"n", b"ew"]])
def test_replaces_the_whole_content(tmp_path: Path, content: object) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"something longer")
    atomic_write(target, content)  # type: ignore[arg-type]
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_a_failure_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    target = tmp_path / "a.txt"
    target.write_bytes(b"old")
    monkeypatch.setattr(disk, "DISK", RefusingDisk(errno.ENOSPC, operation))
    with pytest.raises(CapacityError) as caught:
        atomic_write(target, b"new")
    assert str(target) in caught.value.what
    assert "free" in caught.value.why
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == {"a.txt"}


def test_a_full_disk_says_how_much_was_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "DISK", RefusingDisk(errno.ENOSPC, "write"))
    with pytest.raises(CapacityError, match=r"At least 4\.9 KiB are needed"):
        atomic_write(tmp_path / "a", bytes(5000))


def test_a_failing_source_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", broken())
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.EROFS, EnvironmentFault),
        (errno.EACCES, EnvironmentFault),
        (errno.EIO, EnvironmentFault),
        (errno.ENAMETOOLONG, UsageError),
    ],
)
def test_refusals_have_the_right_kind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[Exception]
) -> None:
    monkeypatch.setattr(disk, "DISK", RefusingDisk(code, "create"))
    with pytest.raises(kind):
        atomic_write(tmp_path / "a", b"")


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError):
        make_folder(tmp_path / "file" / "under")
    with pytest.raises(UsageError):
        make_folder(tmp_path / "file")


def test_parts_of_dead_writers_are_cleaned(tmp_path: Path) -> None:
    host = this_process().host
    (tmp_path / f".a.part-999999999-5-{host}-0").touch()
    (tmp_path / f".b.part-999999999-5-{host}-0").touch()
    atomic_write(tmp_path / "a", b"")
    assert names(tmp_path) == {"a", f".b.part-999999999-5-{host}-0"}


def test_a_part_that_a_container_of_the_same_name_still_writes_is_left(tmp_path: Path) -> None:
    # Its process number means nothing here: there may be no such process, or another one.
    part = tmp_path / f".a.part-999999999-5-{this_process().host}-0"
    part.touch()
    with locked(part):
        atomic_write(tmp_path / "a", b"")
        assert part.exists()
    atomic_write(tmp_path / "a", b"")
    assert not part.exists()


def test_what_is_being_written_is_locked(tmp_path: Path) -> None:
    def content() -> Iterator[bytes]:
        [part] = tmp_path.iterdir()
        handle = os.open(part, os.O_RDONLY)
        assert is_locked(handle)
        os.close(handle)
        yield b"x"

    atomic_write(tmp_path / "a", content())
    assert names(tmp_path) == {"a"}


def test_parts_of_another_host_are_left_for_a_day(tmp_path: Path) -> None:
    foreign = tmp_path / ".a.part-1-5-77-0"
    foreign.touch()
    atomic_write(tmp_path / "a", b"")
    assert foreign.exists()
    os.utime(foreign, (0, 0))
    atomic_write(tmp_path / "a", b"")
    assert not foreign.exists()


def test_lines_are_added(tmp_path: Path) -> None:
    append_line(tmp_path / "log", "一")
    append_line(tmp_path / "log", "two")
    assert (tmp_path / "log").read_text() == "一\ntwo\n"


def test_a_line_that_does_not_fit_leaves_nothing_of_itself(tmp_path: Path) -> None:
    append_line(tmp_path / "log", "one")
    full = FaultyDisk(2, errno.ENOSPC)  # the first operation opens the file
    with installed(full), pytest.raises(CapacityError, match="log"):
        append_line(tmp_path / "log", "two")
    assert full.fired
    append_line(tmp_path / "log", "three")
    assert (tmp_path / "log").read_text() == "one\nthree\n"


def test_links_are_relative_and_replace_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "x").write_bytes(b"content")
    (tmp_path / "x").write_bytes(b"old")
    link_or_copy(tmp_path / "final" / "x", tmp_path / "x")
    assert (tmp_path / "x").readlink() == Path("final/x")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "x").read_bytes() == b"content"


def test_copies_where_links_are_impossible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(b"content")
    monkeypatch.setattr(disk, "DISK", RefusingDisk(errno.EPERM, "link"))
    link_or_copy(tmp_path / "source", tmp_path / "x")
    assert not (tmp_path / "x").is_symlink()
    assert (tmp_path / "x").read_bytes() == b"content"
    assert names(tmp_path) == {"source", "x"}


def test_free_space(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet" / "there") > 0
    require_free(tmp_path, 1)
    with pytest.raises(CapacityError, match="GiB are needed"):
        require_free(tmp_path, 10**18)
