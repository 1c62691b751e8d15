"""A whole job that runs out of memory: what run.json keeps, how it is resumed, how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from danlu.errors import CapacityError
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from danlu.train.events import Adapted, Event, Planned, StepDone
from danlu.train.finetune import Finetune
from danlu.train.settings import TrainSettings
from danlu.train.trainer import Interrupted
from tests.helpers.failing_allocator import failing_allocator, full_host
from tests.helpers.model_folder import write_model_folder
from tests.helpers.program import SHORT, timeless, write_rows

RESULT = "adapter_model.safetensors"
STEPS = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows, and the run `whole` that ran out of memory at step 5 and nobody disturbed."""
    folder = tmp_path_factory.mktemp("place")
    write_model_folder(folder / "model")
    rows = write_rows(folder / "rows.jsonl")
    with rows.open("a", encoding="utf-8") as file:  # as many short ones
        file.writelines(f'{{"instruction": "{n}?", "output": "{n}"}}\n' for n in range(40))
    train(folder, "whole", full_from=5)
    return folder


def settings(place: Path, name: str, **changes: Any) -> TrainSettings:
    given = {
        **SHORT,
        "model_name_or_path": str(place / "model"),
        "dataset": str(place / "rows.jsonl"),
        "output_dir": str(place / name),
        "max_steps": STEPS,
        "save_steps": 2,
        "val_size": 4,
        "eval_steps": 3,
        "plot_loss": False,
        **changes,
    }
    return TrainSettings(**given)


def train(place: Path, name: str, *, full_from: int, most: int = 0, **changes: Any) -> list[Event]:
    """Train; from a step on no micro-batch over `most` tokens fits, but for single examples."""
    job = Finetune(settings(place, name, **changes))
    largest = most or max(len(e.tokens) for row in job.data.train_rows for e in row)

    def is_late() -> bool:
        return job._trainer is not None and job._trainer.progress.step >= full_from - 1

    with failing_allocator(lambda at: at.tokens > largest and at.learns and is_late()):
        return list(job.run())


def result(run: Path) -> bytes:
    return (run / RESULT).read_bytes()


def test_the_run_tells_how_it_computed_from_which_step_on(place: Path) -> None:
    recorded = read_manifest(place / "whole")
    changes = recorded.arithmetic["changes"]
    assert recorded.state == "finished"
    assert {change["step"] for change in changes} == {5}
    tokens = [change["micro_batch_tokens"] for change in changes]
    assert tokens == sorted(tokens, reverse=True)
    assert recorded.arithmetic["micro_batch_tokens"] > tokens[0]  # as at the start
    records = read_metrics(place / "whole")
    found = [r["micro_batch_tokens"] for r in records if r.get("event") == "out_of_memory"]
    assert found == tokens


@pytest.mark.parametrize("step", [4, 6])
def test_resumed_before_or_behind_it_the_run_ends_with_the_same_bytes(
    place: Path, step: int
) -> None:
    whole = place / "whole"
    before, metrics = result(whole), timeless(whole)
    resumed = {"resume_from_checkpoint": f"checkpoint-{step}"}
    # Behind it there is memory again: the recorded way counts, not the way that would be found.
    events = train(place, "whole", full_from=5 if step < 5 else STEPS + 1, **resumed)
    assert next(event.step for event in events if isinstance(event, StepDone)) == step + 1
    assert any(isinstance(event, Adapted) for event in events) == (step < 5)
    assert result(whole) == before
    assert timeless(whole) == metrics
    assert {c["step"] for c in read_manifest(whole).arithmetic["changes"]} == {5}


def test_interrupted_between_two_tries_it_ends_with_the_same_bytes(place: Path) -> None:
    job = Finetune(settings(place, "interrupted"))
    largest = max(len(e.tokens) for row in job.data.train_rows for e in row)

    def is_full(at: Any) -> bool:
        step = job._trainer.progress.step if job._trainer else 0
        return bool(at.learns and at.tokens > largest and step >= 4)

    with failing_allocator(is_full):
        events = job.run()
        while not isinstance(next(events), Adapted):
            pass
        job.request_stop()
        with pytest.raises(Interrupted):
            list(events)
    assert read_manifest(place / "interrupted").state == "interrupted"
    train(place, "interrupted", full_from=5, resume_from_checkpoint=True)
    assert result(place / "interrupted") == result(place / "whole")
    assert timeless(place / "interrupted") == timeless(place / "whole")
    changes = [
        read_manifest(place / name).arithmetic["changes"] for name in ("interrupted", "whole")
    ]
    assert changes[0] == changes[1]


def test_a_tiny_step_that_does_not_fit_makes_another_plan(place: Path) -> None:
    job = Finetune(settings(place, "probe"))
    assert job.plan is not None
    assert job.plan.chosen is not None
    planned = job.plan.chosen.arithmetic
    with failing_allocator(lambda at: at.tokens > planned.micro_batch_tokens // 2):
        events = list(job.run())
    kinds = [type(event) for event in events]
    adapted = events[kinds.index(Adapted)]
    measured = events[kinds.index(Planned)]
    assert isinstance(adapted, Adapted)
    assert isinstance(measured, Planned)
    assert adapted.moment == "probe"
    assert measured.plan.chosen is not None
    assert measured.plan.chosen.arithmetic == adapted.arithmetic
    recorded = read_manifest(place / "probe")
    assert recorded.arithmetic["micro_batch_tokens"] < planned.micro_batch_tokens
    assert "changes" not in recorded.arithmetic  # it computed like this from the start
    assert recorded.plan["measured"]


def test_at_the_end_of_the_ladder_it_says_how_to_go_on(place: Path) -> None:
    run = place / "ended"
    with pytest.raises(CapacityError) as caught:
        train(place, "ended", full_from=6, most=1)
    problem = caught.value
    assert problem.exit_code == 4
    assert "step 6" in problem.what
    assert "block" in problem.why
    for words in ("--resume_from_checkpoint true", "--cutoff_len ", f"--adapter {run}"):
        assert words in problem.fix
    assert read_manifest(run).state == "stopped"
    assert [c.step for c in list_checkpoints(run)][-1] == 5
    # With more memory the very run goes on, as if it had never lacked any.
    train(place, "ended", full_from=STEPS + 1, resume_from_checkpoint=True)
    train(place, "enough", full_from=STEPS + 1)
    assert result(run) == result(place / "enough")
    assert timeless(run) == timeless(place / "enough")
    assert "changes" not in read_manifest(run).arithmetic
    # And the advice works: a new run with shorter examples that goes on with what was learned.
    cutoff = int(problem.fix.split("--cutoff_len ")[1].split()[0])
    shorter = {"cutoff_len": cutoff, "adapter_name_or_path": str(run)}
    assert train(place, "shorter", full_from=STEPS + 1, **shorter)


def test_where_not_even_a_tiny_step_fits_nothing_is_pretended(place: Path) -> None:
    with failing_allocator(lambda at: True), pytest.raises(CapacityError) as caught:
        list(Finetune(settings(place, "nothing")).run())
    assert "--cutoff_len" in caught.value.fix
    assert "--resume" not in caught.value.fix
    assert read_manifest(place / "nothing").state == "stopped"


def test_no_memory_elsewhere_is_said_in_three_lines(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("danlu.train.finetune.model_card", lambda *_values, **_named: full_host())
    with pytest.raises(CapacityError) as caught:
        list(Finetune(settings(place, "card")).run())
    assert "DefaultCPUAllocator" in caught.value.why
    assert read_manifest(place / "card").state == "failed"
