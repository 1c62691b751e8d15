"""What danlu does to a run's folder, one action at a time, for tests that let the disk fail.

No torch: the actions are also done by small processes that are killed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from danlu.files.committed import verify
from danlu.files.leftovers import clean_leftovers
from danlu.runs.checkpoints import (
    FINAL,
    commit_checkpoint,
    commit_final,
    find_newest,
    list_checkpoints,
    prune,
    publish_final,
)
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest, is_run, read_manifest, write_manifest
from danlu.runs.metrics import Metrics, read_metrics, truncate_after
from tests.helpers.faulty_disk import everyone_else_is_dead
from tests.helpers.program import leftovers

MANIFEST = RunManifest(
    state="running",
    base=BaseRecord(name="starter", path="/models/starter", fingerprint="abc"),
    template="qwen3",
    enable_thinking=None,
)
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """An action on a run, and what of the run a user would load before and after it.

    `state` must be the same for a whole old or new state, and never fail.
    """

    act: Callable[[Path], object]
    state: Callable[[Path], object]


def prepare(run: Path) -> None:
    """Make a run with three checkpoints, a result and metrics."""
    with RunFolder.create(run) as folder:
        folder.write(MANIFEST)
        for step in (1, 2, 3):
            Metrics(run).append({"step": step, "loss": 1 / step})
            save(run, step, b"old")
        result(run, b"old")
        publish_final(run)


def save(run: Path, step: int, content: bytes) -> None:
    """Commit a checkpoint of two files, one of them in two pieces."""
    with commit_checkpoint(run, step) as draft:
        draft.write(WEIGHTS, [content, b" weights of step %d" % step])
        draft.write("progress.json", content)


def result(run: Path, content: bytes) -> None:
    """Commit final/."""
    with commit_final(run) as draft:
        draft.write(WEIGHTS, content)
        draft.write("adapter_config.json", content)


def newest(run: Path) -> object:
    """The checkpoint that a resumed run would go on from; none may be damaged."""
    search = find_newest(run)
    assert not search.damaged
    assert search.newest is not None
    return search.newest.step, (search.newest.path / WEIGHTS).read_bytes()


def _replace(run: Path) -> None:
    save(run, 3, b"new")


def _finish(run: Path) -> None:
    result(run, b"new")
    publish_final(run)
    write_manifest(run, MANIFEST.changed(state="finished"))


def _finished(run: Path) -> object:
    names = set(verify(run / FINAL))
    content = (run / FINAL / WEIGHTS).read_bytes()
    assert names == {WEIGHTS, "adapter_config.json"}
    assert {(run / name).read_bytes() for name in names} == {content}
    # The state is written last: it may lag behind the result, but not run ahead of it.
    if read_manifest(run).state == "finished":
        assert content == b"new"
    return content


def _overwrite(run: Path) -> None:
    RunFolder.create(run, overwrite=True).close()


def _old_run(run: Path) -> object:
    places = [run, *(run.parent / ".trash").glob("*")]
    # A power cut between two folders' names may leave it under both.
    whole = [(newest(place), read_manifest(place)) for place in places if is_run(place)]
    assert whole
    assert all(state == whole[0] for state in whole)
    return whole[0]


def _log(run: Path) -> None:
    truncate_after(run, 3)
    metrics = Metrics(run)
    metrics.append({"step": 4, "loss": 0.25})
    metrics.sync()


def _resume(run: Path) -> None:
    with RunFolder.reopen(run) as folder:
        folder.write(MANIFEST.changed(detail="resumed"))
        truncate_after(run, 2)


def _steps(run: Path) -> object:
    return [record["step"] for record in read_metrics(run)]


SCENARIOS = {
    "a checkpoint is saved": Scenario(act=lambda run: save(run, 4, b"new"), state=newest),
    "a checkpoint is replaced": Scenario(act=_replace, state=newest),
    "old checkpoints are removed": Scenario(act=lambda run: prune(run, keep=1), state=newest),
    "the result is published": Scenario(act=_finish, state=_finished),
    "a run is moved to the trash": Scenario(act=_overwrite, state=_old_run),
    "run.json is written": Scenario(
        act=lambda run: write_manifest(run, MANIFEST.changed(state="failed")), state=read_manifest
    ),
    "a step is logged": Scenario(act=_log, state=_steps),
    "metrics are cut on resume": Scenario(act=_resume, state=_steps),
}


def restart(run: Path) -> None:
    """Do what the next command does first, once the process that wrote is gone."""
    with everyone_else_is_dead():
        if is_run(run):
            RunFolder.reopen(run).close()
        else:
            clean_leftovers(run)
    assert leftovers(run.parent) == []
    for checkpoint in list_checkpoints(run):
        verify(checkpoint.path)
