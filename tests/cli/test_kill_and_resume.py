"""A run that is killed and resumed ends with the very bytes of a run that was left alone."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from danlu.cli.main import main
from danlu.files.committed import verify
from danlu.runs.checkpoints import find_newest, list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.program import start
from tests.helpers.training.whole_run import RESUME, STEPS, Place, running, wait_for_step

# danlu on a disk that kills the process, as kill -9 does, at one operation: NAME at a path that
# holds PART; a write stops in the middle.
MORTAL = """
import os, signal, sys
from danlu.cli.main import main
from danlu.files import disk

name, part, *words = sys.argv[1:]
real = getattr(disk.Disk, name)

def operation(self, *values):
    place = str(values[0].name if name == "write" else values[-1])
    if part in place:
        if name == "write":
            real(self, values[0], values[1][: len(values[1]) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, *values)

setattr(disk.Disk, name, operation)
sys.exit(main(words))
"""
# In one run, one after another: half a checkpoint is written; a checkpoint is complete but for its
# name; an old one is being removed; the result is there but not yet shown at the root.
DEATHS = [
    ("write", ".checkpoint-40.draft"),
    ("rename", "checkpoint-50"),
    ("remove_tree", ".checkpoint-40.gone"),
    ("link", "adapter_model.safetensors"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize(
    "deaths",
    [DEATHS[1:3], pytest.param(DEATHS, marks=pytest.mark.soak)],
    ids=["twice", "again and again"],
)
def test_killed_again_and_again_the_result_is_the_same(
    place: Place, deaths: list[tuple[str, str]]
) -> None:
    run = place.folder / f"killed-{len(deaths)}"
    words = place.words(run.name)
    with running(words, place.folder / "log", 25) as process:
        wait_for_step(process, run, 25)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    for name, part in deaths:
        with start([name, part, *words, *RESUME], program=MORTAL) as process:
            assert process.wait() == -signal.SIGKILL
        saved = list_checkpoints(run)
        assert saved
        for checkpoint in saved:
            verify(checkpoint.path)
    assert main([*words, *RESUME]) == 0
    place.assert_as_if_undisturbed(run.name)
    assert_computed_alike(run, num_resumes=len(deaths) + 1)


def assert_computed_alike(run: Path, num_resumes: int) -> None:
    """The steps that were lost and computed again have the same losses, as run.json can show."""
    resumes = read_manifest(run).arithmetic.resumes
    assert len(resumes) == num_resumes
    now = {record["step"]: record["loss"] for record in read_metrics(run) if "loss" in record}
    lost = {step: loss for resume in resumes for step, loss in resume.lost.items()}
    assert lost
    assert lost == {step: now[step] for step in lost}


def test_ctrl_c_saves_the_last_step(place: Place) -> None:
    words, run = place.words("stopped", save_steps=1000), place.folder / "stopped"
    log = place.folder / "log"
    with running(words, log, 5) as process:
        wait_for_step(process, run, 5)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert "--resume_from_checkpoint true" in log.read_text(encoding="utf-8")
    newest = find_newest(run).newest
    assert newest is not None
    assert 5 <= newest.step < STEPS
    assert read_metrics(run)[-1]["step"] == newest.step
    assert read_manifest(run).state == "interrupted"
    assert main([*words, *RESUME]) == 0
    place.assert_as_if_undisturbed("stopped")


def test_a_damaged_checkpoint_is_named_and_skipped(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words, run = place.words("damaged", max_steps=30), place.folder / "damaged"
    assert main(words) == 0
    whole = (run / "final" / "adapter_model.safetensors").read_bytes()
    path = run / "checkpoint-30" / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    capsys.readouterr()
    assert main([*words, *RESUME]) == 0
    output = capsys.readouterr().out
    assert "skipped:" in output
    assert str(path) in output
    assert "going on after step 20" in output
    assert (run / "final" / "adapter_model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "diff"),
    [
        ({"learning_rate": 0.001}, "learning_rate: 0.005 -> 0.001"),
        ({"lora_rank": 4, "max_steps": 9}, "lora_rank: 8 -> 4; max_steps: 60 -> 9"),
        ({"lora_target": "q_proj"}, "lora_target: all -> q_proj"),
    ],
)
def test_other_settings_are_refused_by_name(
    place: Place, capsys: pytest.CaptureFixture[str], changes: dict[str, object], diff: str
) -> None:
    # As settings stand in their class, not as they were typed.
    order = sorted(changes)
    assert_refused(place, capsys, {name: changes[name] for name in order}, diff)


def test_other_data_and_another_base_are_refused(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = place.rows.read_text(encoding="utf-8")
    weights = place.model / "model.safetensors"
    base = weights.read_bytes()
    try:
        shorter = "".join(rows.splitlines(keepends=True)[:-1])
        for changed in (rows.replace("fox 3?", "fox three?"), rows + rows, shorter):
            place.rows.write_text(changed, encoding="utf-8")
            assert_refused(place, capsys, {}, "data: ")
        place.rows.write_text(rows, encoding="utf-8")
        weights.write_bytes(base[:-64] + bytes(64))
        assert_refused(place, capsys, {}, "base model: ")
    finally:
        place.rows.write_text(rows, encoding="utf-8")
        weights.write_bytes(base)


def assert_refused(
    place: Place, capsys: pytest.CaptureFixture[str], changes: dict[str, object], diff: str
) -> None:
    """Resuming is refused with the difference, and the run stays as it was."""
    before = (place.whole / "run.json").read_bytes()
    assert main([*place.words("whole", **changes), *RESUME]) == 2
    what, why, fix = capsys.readouterr().err.splitlines()
    assert "cannot be resumed" in what
    assert diff in why
    assert why.count("->") == diff.count("->") or diff.endswith(": ")
    assert "run.json" in fix
    assert (place.whole / "run.json").read_bytes() == before


def test_a_run_without_a_checkpoint_must_start_anew(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    words, run = place.words("early", max_steps=4), place.folder / "early"
    assert main(words) == 0
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    (run / "run.json").write_text(json.dumps({**manifest, "state": "running"}), encoding="utf-8")
    for checkpoint in list_checkpoints(run):
        checkpoint.path.rename(place.folder / "elsewhere")
    assert main([*words, *RESUME]) == 2
    what, _why, fix = capsys.readouterr().err.splitlines()
    assert "no checkpoint" in what
    assert "--overwrite_output_dir" in fix
    assert main([*words, "--overwrite_output_dir"]) == 0
