"""Several processes train as one does: on the CPU, with gloo between them."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.cli.main import main
from danlu.files import disk
from danlu.files.committed import verify
from danlu.plan.choose import Plan
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from danlu.train.job import setup
from danlu.train.loop import step
from danlu.train.loop.optimizer import MOST_FIGURES
from danlu.weights.safetensors import SafetensorsFile
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_model import EXPERTS
from tests.helpers.program import train_words, write_rows
from tests.helpers.training.ranks import said_by, train_on_ranks
from tests.helpers.waiting import wait_until
from tests.sim.npu import missing_api

RESUME = ("--resume_from_checkpoint", "true")
# The others of a kind: `make soak`, and before a merge.
long = pytest.mark.soak
FIGURES = ("loss", "grad_norm", "eval_loss", "eval_loss_per_sample")


class Trainings:
    """Runs over 20 rows with 3 held out, six steps each, on a tiny model."""

    def __init__(self, folder: Path, **shape: Any) -> None:
        self.folder = folder
        self.model = write_model_folder(folder / "model", **shape)
        self.rows = write_rows(folder / "rows.jsonl", 23)

    def words(self, name: str, *, size: int = 1, rows: int = 8, **changes: Any) -> list[str]:
        """Return the command of one of `size` processes; steps have `rows` of all together."""
        usual: dict[str, Any] = {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": rows // size,
            "val_size": 3,
            "eval_steps": 2,
            "save_steps": 2,
        }
        return train_words(self.model, self.rows, self.folder / name, **{**usual, **changes})

    def alone(self, name: str, *more: str, **changes: Any) -> str:
        """Train in this process."""
        if not (self.folder / name).exists() or more:
            assert main([*self.words(name, **changes), *more]) == 0
        return name

    def together(
        self, size: int, name: str, *more: str, ranks: dict[str, Any] | None = None, **changes: Any
    ) -> list[int]:
        """Train in `size` processes; return their exit codes. ranks: for `train_on_ranks`."""
        words = [*self.words(name, size=size, **changes), *more]
        return train_on_ranks(size, words, self.folder / f"{name}.log", **(ranks or {}))

    def said(self, name: str, rank: int) -> str:
        return said_by(self.folder / f"{name}.log", rank)

    def figures(self, name: str, key: str) -> list[float]:
        return [r[key] for r in read_metrics(self.folder / name) if key in r]

    def weights(self, name: str) -> torch.Tensor:
        [file] = (self.folder / name / "final").glob("*model.safetensors")
        stored = SafetensorsFile(file)
        return torch.cat([stored.read(key).float().flatten() for key in sorted(stored.tensors)])

    def assert_equal(self, name: str, other: str) -> None:
        """To 1e-5: sums are made in another order."""
        for key in FIGURES:
            assert self.figures(name, key) == pytest.approx(self.figures(other, key), rel=1e-4)
        assert float((self.weights(name) - self.weights(other)).abs().max()) < 1e-5

    def assert_same_bits(self, name: str, other: str) -> None:
        for key in FIGURES:
            assert self.figures(name, key) == self.figures(other, key)
        assert torch.equal(self.weights(name), self.weights(other))


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("group"))


@pytest.mark.parametrize(
    ("size", "changes"),
    [
        (2, {}),
        pytest.param(2, {"recompute": "block", "micro_batch_tokens": 64}, marks=long),
        pytest.param(2, {"finetuning_type": "full", "learning_rate": 1e-3}, marks=long),
        pytest.param(3, {"rows": 6, "weight_decay": 0.1}, marks=long),
    ],
    ids=["two", "two, in many microsteps", "two, every weight", "three"],
)
def test_several_learn_what_one_does(
    trainings: Trainings, size: int, changes: dict[str, Any]
) -> None:
    name = "-".join(map(str, (size, *changes)))
    assert trainings.together(size, name, **changes) == [0] * size
    trainings.assert_equal(name, trainings.alone(f"alone-{name}", **changes))
    manifest = read_manifest(trainings.folder / name)
    assert (manifest.state, manifest.arithmetic.num_devices) == ("finished", size)
    assert f"{size} devices share each step" in trainings.said(name, 0)
    assert [trainings.said(name, rank) for rank in range(1, size)] == [""] * (size - 1)


def _base_does_not_fit(_rank: int) -> None:
    """Plan as for a model that no device has room for."""
    usual = setup.LearningTask.plan

    def plan(*arguments: Any, **keywords: Any) -> Plan:
        found = usual(*arguments, **keywords)
        return replace(found, job=replace(found.job, num_shares=2))

    setup.LearningTask.plan = plan  # type: ignore[method-assign, assignment]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"recompute": "selective", "micro_batch_tokens": 64}, marks=long),
        pytest.param({"recompute": "gate_up", "micro_batch_tokens": 64}, marks=long),
        pytest.param({"recompute": "block", "micro_batch_tokens": 64}, marks=long),
        {"finetuning_type": "full", "learning_rate": 1e-3},
        pytest.param(
            {"finetuning_type": "full", "learning_rate": 1e-3, "micro_batch_tokens": 64},
            marks=long,
        ),
    ],
    ids=["as planned", "selective", "gate_up", "block", "every weight", "in many microsteps"],
)
def test_where_the_base_does_not_fit_each_holds_a_share(
    trainings: Trainings, changes: dict[str, Any]
) -> None:
    name = "-".join(map(str, ("shared", *changes.values())))
    ranks = {"before": _base_does_not_fit}
    assert trainings.together(2, name, ranks=ranks, **changes) == [0, 0]
    manifest = read_manifest(trainings.folder / name)
    assert manifest.arithmetic.is_shared
    assert "each holds a share of the model" in trainings.said(name, 0)
    other = name.replace("shared", "whole")
    trainings.assert_equal(name, trainings.alone(other, **changes))


@long
def test_divided_weights_are_gone_on_with_by_any_number(trainings: Trainings) -> None:
    """What is saved is whole; so are the files of the result, and the best one is taken."""
    full = {"finetuning_type": "full", "learning_rate": 1e-3, "load_best_model_at_end": "true"}
    divided = {"before": _base_does_not_fit}
    assert trainings.together(2, "div-whole", ranks=divided, **full) == [0, 0]
    folder = trainings.folder / "div-killed"
    trainings.together(2, "div-killed", ranks={"before": _divided_and_dying}, **full)
    assert list_checkpoints(folder)[-1].step == 2
    for name in ("div-one", "div-three"):
        shutil.copytree(folder, trainings.folder / name)
    assert trainings.together(2, "div-killed", *RESUME, **full) == [0, 0]
    trainings.assert_same_bits("div-killed", "div-whole")
    changes = {**full, "gradient_accumulation_steps": 4}
    trainings.alone("div-one", *RESUME, **changes)
    assert trainings.together(3, "div-three", *RESUME, **changes) == [0, 0, 0]
    trainings.assert_equal("div-one", "div-whole")
    trainings.assert_equal("div-three", "div-whole")


def _divided_and_dying(rank: int) -> None:
    _base_does_not_fit(rank)
    _die_in_step_4(rank)


def _simulated_npu(_rank: int) -> None:
    """Give the process an NPU, and note what goes from one to the other."""
    from tests.sim import hccl, npu

    npu.register()
    hccl.register(Path(os.environ["CARRIED"]))


def test_two_simulated_npus(trainings: Trainings) -> None:
    """Gradients go from device to device, once a step; the rest stays on the host."""
    if lacking := missing_api():
        pytest.skip(f"no simulated NPU: {lacking}")
    # Each process has its own simulation, with one NPU.
    logs = [trainings.folder / f"carried.{rank}" for rank in range(2)]
    places = {rank: {"LOCAL_RANK": "0", "CARRIED": str(logs[rank])} for rank in range(2)}
    ranks = {"before": _simulated_npu, "variables": places}
    assert trainings.together(2, "npus", ranks=ranks, device="npu") == [0, 0]
    trainings.assert_equal("npus", trainings.alone("enough"))
    numbers = len(trainings.weights("npus")) + MOST_FIGURES
    for log in logs:
        assert log.read_text(encoding="ascii").splitlines() == [f"allreduce {numbers}"] * 6


@long
@pytest.mark.parametrize("ranks", [{}, {"before": _base_does_not_fit}], ids=["whole", "divided"])
def test_models_with_experts(tmp_path: Path, ranks: dict[str, Any]) -> None:
    """A rank routes its own tokens; of a divided base it has a share of every expert."""
    with_experts = Trainings(tmp_path, num_hidden_layers=3, experts=EXPERTS)
    assert with_experts.together(2, "two", ranks=ranks) == [0, 0]
    assert read_manifest(tmp_path / "two").arithmetic.is_shared == bool(ranks)
    with_experts.assert_equal("two", with_experts.alone("alone"))


def test_more_processes_than_rows(trainings: Trainings) -> None:
    """Some have nothing to compute, and add zeros."""
    assert trainings.together(3, "few", rows=3, val_size=1, max_samples=3, max_steps=3) == [0] * 3
    alone = trainings.alone("few-alone", rows=3, val_size=1, max_samples=3, max_steps=3)
    trainings.assert_equal("few", alone)


def _die_in_step_4(rank: int) -> None:
    """Kill rank 1 when it has computed its share of the fourth step, as the system does."""
    usual, steps = step.Optimizer.sum_over, []

    def sum_over(self: Any, *arguments: Any) -> Any:
        steps.append(1)
        if rank == 1 and len(steps) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(self, *arguments)

    step.Optimizer.sum_over = sum_over  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def killed(trainings: Trainings) -> Path:
    """A run of two of which one died in its fourth step."""
    codes = trainings.together(2, "killed", ranks={"before": _die_in_step_4})
    assert codes == [3, -signal.SIGKILL]
    said = trainings.said("killed", 0)
    assert "another of its processes has ended" in said
    assert "--resume_from_checkpoint true" in said
    folder = trainings.folder / "killed"
    assert read_manifest(folder).state == "failed"
    checkpoints = list_checkpoints(folder)
    assert [checkpoint.step for checkpoint in checkpoints][-1] == 3
    for checkpoint in checkpoints:
        verify(checkpoint.path)
    return folder


@pytest.fixture(scope="module")
def whole(trainings: Trainings) -> str:
    """The name of a run of two that nobody disturbed."""
    assert trainings.together(2, "undisturbed") == [0, 0]
    return "undisturbed"


def test_where_one_dies_the_others_save_what_they_have_and_it_goes_on(
    trainings: Trainings, killed: Path, whole: str
) -> None:
    """With as many processes to the same bits."""
    shutil.copytree(killed, trainings.folder / "two")
    assert trainings.together(2, "two", *RESUME) == [0, 0]
    trainings.assert_same_bits("two", whole)


@long
def test_with_another_number_of_processes_it_goes_on_to_equal_ones(
    trainings: Trainings, killed: Path, whole: str
) -> None:
    shutil.copytree(killed, trainings.folder / "one")
    shutil.copytree(killed, trainings.folder / "three")
    # Each has the rows a step that the run began with, whatever it is told now.
    changes = {"gradient_accumulation_steps": 4}
    trainings.alone("one", *RESUME, **changes)
    trainings.assert_equal("one", whole)
    assert trainings.together(3, "three", *RESUME, **changes) == [0, 0, 0]
    trainings.assert_equal("three", whole)
    assert "began with 2 devices" in trainings.said("three", 0)
    resumes = read_manifest(trainings.folder / "three").arithmetic.resumes
    assert [resume.num_devices for resume in resumes] == [3]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=long), 1])
def test_a_signal_to_any_of_them_stops_all_behind_the_same_step(
    trainings: Trainings, rank: int
) -> None:
    name = f"stopped-{rank}"

    def stop(pids: Sequence[int]) -> None:
        wait_until(lambda: (trainings.folder / name / "checkpoint-2").exists())
        os.kill(pids[rank], signal.SIGTERM)

    codes = trainings.together(2, name, max_steps=400, ranks={"watch": stop})
    assert codes == [130, 130]
    assert "the last completed step is saved" in trainings.said(name, 0)
    manifest = read_manifest(trainings.folder / name)
    assert manifest.state == "interrupted"
    steps = len(trainings.figures(name, "loss"))
    assert list_checkpoints(trainings.folder / name)[-1].step == steps


def _little_memory(rank: int) -> None:
    """Let a microstep of more than 100 tokens fail on rank 1."""
    usual = step.microstep

    def microstep(method: Any, staged: Any, **keywords: Any) -> torch.Tensor:
        if rank == 1 and staged.batch.num_tokens > 100:
            raise torch.OutOfMemoryError("out of memory")
        return usual(method, staged, **keywords)

    step.microstep = microstep


def test_where_memory_runs_out_on_one_all_need_less_from_the_next_step_on(
    trainings: Trainings,
) -> None:
    assert trainings.together(2, "little", ranks={"before": _little_memory}) == [0, 0]
    trainings.assert_equal("little", trainings.alone("enough"))
    [change] = read_manifest(trainings.folder / "little").arithmetic.changes
    assert change.step == 1
    assert change.micro_batch_tokens <= 100
    assert "out of memory at step 1" in trainings.said("little", 0)


def test_an_error_is_said_once_and_nobody_waits_for_ever(trainings: Trainings) -> None:
    """A folder that is not empty is known to the lead; a device without memory to another one."""
    trainings.alone("taken")
    codes = trainings.together(2, "taken")
    assert codes == [2, 3]
    assert "is not empty" in trainings.said("taken", 0)
    assert trainings.said("taken", 1) == ""


def test_half_a_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trainings: Trainings
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(trainings.words("nowhere")) == 2
    assert "LOCAL_RANK=1" in capsys.readouterr().err


def _full_disk(rank: int) -> None:
    """Let the lead write no checkpoint."""
    usual = disk.Disk.write

    def write(self: Any, file: Any, data: Any) -> None:
        if "checkpoint-" in str(file.name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(self, file, data)

    if rank == 0:
        disk.Disk.write = write  # type: ignore[method-assign]


def test_a_full_disk_at_the_lead_ends_all_of_them(trainings: Trainings) -> None:
    """As in a run of one process: after the second checkpoint that could not be written."""
    codes = trainings.together(2, "full", ranks={"before": _full_disk})
    assert codes == [4, 3]
    assert "not saved, trying again later" in trainings.said("full", 0)
    assert trainings.said("full", 1) == ""
    assert list_checkpoints(trainings.folder / "full") == []
