"""A run's folder: state, metrics, checkpoints and who may write."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.errors import DataError, UsageError
from danlu.runs.checkpoints import (
    commit_checkpoint,
    commit_final,
    find_newest,
    list_checkpoints,
    prune,
    publish_final,
)
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import (
    RUN_FILE,
    ArithmeticRecord,
    BaseRecord,
    RunManifest,
    is_run,
    read_manifest,
)
from danlu.runs.metrics import METRICS_FILE, Metrics, read_metrics, truncate_after
from danlu.runs.registry import size_of

MANIFEST = RunManifest(
    state="running",
    base=BaseRecord(name="starter", path="/models/starter", fingerprint="abc"),
    template="qwen3",
    enable_thinking=None,
    settings={"lora_rank": 8, "dataset": ["a.json"]},
    arithmetic=ArithmeticRecord(threads=2),
)


def add_checkpoint(folder: Path, step: int) -> Path:
    with commit_checkpoint(folder, step) as draft:
        draft.write("weights", b"%d" % step)
    return folder / f"checkpoint-{step}"


def test_the_manifest_comes_back(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as run:
        assert not is_run(run.path)
        run.write(MANIFEST)
        run.write(run.read().changed(state="finished"))
    assert read_manifest(tmp_path / "run") == MANIFEST.changed(state="finished")


def test_a_manifest_takes_no_unknown_state() -> None:
    with pytest.raises(ValueError, match="state"):
        MANIFEST.changed(state="asleep")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b'{"version": 2}', b"[]"])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(DataError, match=RUN_FILE):
        read_manifest(tmp_path)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="is not a run"):
            RunFolder.reopen(path)


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError) as caught:
        RunFolder.create(tmp_path)
    assert "--overwrite_output_dir" in caught.value.fix
    # Only a run can be resumed.
    assert "--resume_from_checkpoint" not in caught.value.fix
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / RUN_FILE).write_text("{}")
    with pytest.raises(UsageError) as caught:
        RunFolder.create(tmp_path)
    assert "--resume_from_checkpoint true" in caught.value.fix


def test_overwriting_moves_the_old_run_away_whole(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as run:
        run.write(MANIFEST)
        add_checkpoint(run.path, 1)
    with RunFolder.create(tmp_path / "run", overwrite=True) as run:
        (moved,) = (tmp_path / ".trash").iterdir()
        assert read_manifest(moved) == MANIFEST
        assert find_newest(moved).newest is not None
        assert not is_run(run.path)
        assert list_checkpoints(run.path) == []


def test_the_folder_one_works_in_is_not_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(UsageError, match="not moved"):
        RunFolder.create(tmp_path, overwrite=True)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run") as run:
        run.write(MANIFEST)
        for overwrite in (False, True):
            with pytest.raises(UsageError, match="in use"):
                RunFolder.create(run.path, overwrite=overwrite)
        with pytest.raises(UsageError, match="in use"):
            RunFolder.reopen(run.path)
    with RunFolder.reopen(tmp_path / "run") as run:
        assert run.read() == MANIFEST


def test_a_run_that_never_wrote_anything_does_not_block_the_next(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").close()
    RunFolder.create(tmp_path / "run").close()


def test_metrics_tolerate_a_torn_last_line_and_are_cut_on_resume(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == []
    for step in range(1, 5):
        Metrics(tmp_path).append({"step": step, "loss": 1 / step})
    with (tmp_path / METRICS_FILE).open("ab") as file:
        file.write(b'{"step": 5, "lo')
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]
    truncate_after(tmp_path, 2)
    Metrics(tmp_path).append({"step": 3, "loss": math.nan, "note": "再"})
    assert read_metrics(tmp_path) == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 0.5},
        {"step": 3, "loss": None, "note": "再"},
    ]


TAILS = {
    "zeros": bytes(40),
    "zeros and a line": bytes(40) + b'{"step": 4}\n',
    "other lines": b"oops\n[3]\n{}\n\xff\n",
    "deep": b"[" * 10**5 + b"\n",
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_what_a_power_cut_made_of_later_lines_goes_on_resume(tmp_path: Path, tail: bytes) -> None:
    for step in (1, 2, 3):
        Metrics(tmp_path).append({"step": step})
    with (tmp_path / METRICS_FILE).open("ab") as file:
        file.write(tail)
    truncate_after(tmp_path, 2)
    Metrics(tmp_path).append({"step": 3})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_damaged_line_before_a_kept_record_is_not_dropped(tmp_path: Path) -> None:
    content = '{"step": 1}\noops\n{"step": 3}\n'
    (tmp_path / METRICS_FILE).write_text(content)
    with pytest.raises(DataError, match=f"{METRICS_FILE}:2"):
        truncate_after(tmp_path, 3)
    assert (tmp_path / METRICS_FILE).read_text() == content


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1}\noops\n')
    with pytest.raises(DataError, match=f"{METRICS_FILE}:2"):
        read_metrics(tmp_path)


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(
    records=st.lists(st.dictionaries(st.text(), st.text() | FLOATS | st.none())),
    cut=st.integers(0, 40),
)
def test_metrics_read_back_exactly_up_to_the_cut(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, object]], cut: int
) -> None:
    folder = tmp_path_factory.mktemp("metrics")
    written = [{**record, "step": step} for step, record in enumerate(records)]
    for record in written:
        Metrics(folder).append(record)  # type: ignore[arg-type]
    assert read_metrics(folder) == written
    if written:
        file = folder / METRICS_FILE
        file.write_bytes(file.read_bytes()[: -1 - cut])
        assert read_metrics(folder) == written[: len(read_metrics(folder))]


def test_the_newest_good_checkpoint_is_found_and_damage_named(tmp_path: Path) -> None:
    assert find_newest(tmp_path / "missing").newest is None
    for step in (5, 10, 100, 20):
        add_checkpoint(tmp_path, step)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-007").mkdir()
    (tmp_path / "checkpoint-100" / "weights").write_bytes(b"999")
    search = find_newest(tmp_path)
    assert search.newest is not None
    assert search.newest.step == 20
    assert len(search.damaged) == 1
    assert "checkpoint-100/weights" in search.damaged[0].what


def test_old_checkpoints_go_and_protected_ones_stay(tmp_path: Path) -> None:
    for step in range(1, 7):
        add_checkpoint(tmp_path, step)
    prune(tmp_path, keep=2, protect={2})
    assert [checkpoint.step for checkpoint in list_checkpoints(tmp_path)] == [2, 5, 6]


def test_the_final_files_show_at_the_root(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        with commit_final(tmp_path) as draft:
            draft.write("adapter_model.safetensors", content)
            draft.write("adapter_config.json", "{}")
        publish_final(tmp_path)
        assert (tmp_path / "adapter_model.safetensors").read_bytes() == content
    assert (tmp_path / "adapter_config.json").readlink() == Path("final/adapter_config.json")
    assert not (tmp_path / "manifest.json").exists()


def test_a_folder_that_vanishes_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's page failed where a checkpoint was removed while its size was counted."""
    for name in ("kept", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(100))
    scan = os.scandir

    def scanned(path: Any = ".") -> Any:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scanned)
    assert size_of(tmp_path) == 100
    assert size_of(tmp_path / "kept" / "file") == 100
