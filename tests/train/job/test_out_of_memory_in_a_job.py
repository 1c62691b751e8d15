"""A whole job that runs out of memory: what run.json keeps, how it is resumed, how it ends."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from danlu.errors import CapacityError
from danlu.runs.checkpoints import list_checkpoints
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from danlu.train.events import Adapted, Event, Planned, StepDone
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.loop.trainer import Interrupted
from danlu.train.settings import TrainSettings
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import SHORT, start, timeless, write_rows
from tests.helpers.training.failing_allocator import Moment, failing_allocator, full_host

RESULT = "adapter_model.safetensors"
# The longest example has 46 tokens.
LONGEST = 46


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, rows, and the run `whole` that ran out of memory at step 5 and nobody disturbed."""
    folder = tmp_path_factory.mktemp("place")
    write_model_folder(folder / "model")
    rows = write_rows(folder / "rows.jsonl")
    with rows.open("a", encoding="utf-8") as file:  # as many short ones
        file.writelines(f'{{"instruction": "{n}?", "output": "{n}"}}\n' for n in range(40))
    with full_from(5):
        train(folder, "whole")
    return folder


def settings(place: Path, name: str, **changes: Any) -> TrainSettings:
    given = {
        **SHORT,
        "model_name_or_path": str(place / "model"),
        "dataset": str(place / "rows.jsonl"),
        "output_dir": str(place / name),
        "max_steps": 8,
        "save_steps": 2,
        "val_size": 4,
        "eval_steps": 3,
        "plot_loss": False,
        **changes,
    }
    return TrainSettings(**given)


def full_from(step: int) -> AbstractContextManager[list[Moment]]:
    """From a step on let no micro-batch fit that is longer than the longest example."""
    return failing_allocator(lambda at: at.tokens > LONGEST and at.step >= step)


def train(place: Path, name: str, **changes: Any) -> list[Event]:
    return list(Finetune(prepare_run(settings(place, name, **changes))).run())


def result(run: Path) -> bytes:
    return (run / RESULT).read_bytes()


def test_the_run_tells_how_it_computed_from_which_step_on(place: Path) -> None:
    recorded = read_manifest(place / "whole")
    changes = recorded.arithmetic.changes
    assert recorded.state == "finished"
    assert {change.step for change in changes} == {5}
    tokens = [change.micro_batch_tokens for change in changes]
    assert tokens == sorted(tokens, reverse=True)
    assert recorded.arithmetic.micro_batch_tokens > tokens[0]  # as at the start
    records = read_metrics(place / "whole")
    found = [r["micro_batch_tokens"] for r in records if r.get("event") == "out_of_memory"]
    assert found == tokens


@pytest.mark.parametrize("step", [4, 6])
def test_resumed_before_or_behind_it_the_run_ends_with_the_same_bytes(
    place: Path, step: int
) -> None:
    whole = place / "whole"
    before, metrics = result(whole), timeless(whole)
    # Behind it there is memory again: the recorded way counts, not the way that would be found.
    with full_from(5) if step < 5 else nullcontext():
        events = train(place, "whole", resume_from_checkpoint=f"checkpoint-{step}")
    assert next(event.step for event in events if isinstance(event, StepDone)) == step + 1
    assert any(isinstance(event, Adapted) for event in events) == (step < 5)
    assert result(whole) == before
    assert timeless(whole) == metrics
    assert {change.step for change in read_manifest(whole).arithmetic.changes} == {5}


# danlu on a device without memory from step 5 on; the process is killed in the step it is told, as
# soon as the checkpoint it is told, which is written behind the training, is there.
MORTAL = """
import os, signal, sys, time
from danlu.cli.main import main
from tests.helpers.training.failing_allocator import failing_allocator

longest, last, checkpoint, *words = sys.argv[1:]

def is_full(at):
    if at.step == int(last):
        until = time.monotonic() + 60
        while not os.path.exists(checkpoint) and time.monotonic() < until:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return at.tokens > int(longest) and at.step >= 5

with failing_allocator(is_full):
    main(words)
"""


@pytest.mark.parametrize("last", [6, pytest.param(8, marks=pytest.mark.soak)])
def test_killed_behind_it_the_run_ends_with_the_same_bytes(place: Path, last: int) -> None:
    name = f"killed-{last}"
    given = settings(place, name).model_dump(exclude_unset=True)
    words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
    checkpoint = place / name / f"checkpoint-{last - 2}"
    told = [str(LONGEST), str(last), str(checkpoint)]
    with start([*told, "train", *words], program=MORTAL) as process:
        assert process.wait() == -signal.SIGKILL
    assert read_manifest(place / name).arithmetic.changes
    assert list_checkpoints(place / name)[-1].step == last - 2
    with full_from(5):
        train(place, name, resume_from_checkpoint=True)
    assert result(place / name) == result(place / "whole")
    assert timeless(place / name) == timeless(place / "whole")


def test_interrupted_between_two_tries_it_ends_with_the_same_bytes(place: Path) -> None:
    job = Finetune(prepare_run(settings(place, "interrupted")))
    events = job.run()
    with full_from(5):
        while not isinstance(next(events), Adapted):
            pass
        job.request_stop()
        with pytest.raises(Interrupted):
            list(events)
    assert read_manifest(place / "interrupted").state == "interrupted"
    with full_from(5):
        train(place, "interrupted", resume_from_checkpoint=True)
    assert result(place / "interrupted") == result(place / "whole")
    assert timeless(place / "interrupted") == timeless(place / "whole")
    changes = [read_manifest(place / name).arithmetic.changes for name in ("interrupted", "whole")]
    assert changes[0] == changes[1]


def test_a_tiny_step_that_does_not_fit_makes_another_plan(place: Path) -> None:
    job = Finetune(prepare_run(settings(place, "probe")))
    assert job.prepared.plan is not None
    planned = job.prepared.plan.chosen.step_plan
    with failing_allocator(lambda at: at.tokens > planned.micro_batch_tokens // 2):
        events = list(job.run())
    kinds = [type(event) for event in events]
    adapted = events[kinds.index(Adapted)]
    measured = events[kinds.index(Planned)]
    assert isinstance(adapted, Adapted)
    assert isinstance(measured, Planned)
    assert adapted.moment == "probe"
    assert measured.plan.chosen.step_plan == adapted.step_plan
    recorded = read_manifest(place / "probe")
    assert recorded.arithmetic.micro_batch_tokens < planned.micro_batch_tokens
    assert "changes" not in recorded.arithmetic.model_dump()  # it computed like this from the start
    assert recorded.plan["measured"]


def test_at_the_end_of_the_ladder_it_says_how_to_go_on(place: Path) -> None:
    run = place / "ended"
    with failing_allocator(lambda at: at.step >= 6), pytest.raises(CapacityError) as caught:
        train(place, "ended")
    problem = caught.value
    assert problem.exit_code == 4
    assert "step 6" in problem.what
    assert "block" in problem.why
    for words in ("--resume_from_checkpoint true", "--cutoff_len ", f"--adapter {run}"):
        assert words in problem.fix
    assert read_manifest(run).state == "stopped"
    assert [c.step for c in list_checkpoints(run)][-1] == 5
    # With more memory the very run goes on, as if it had never lacked any.
    train(place, "ended", resume_from_checkpoint=True)
    train(place, "enough")
    assert result(run) == result(place / "enough")
    assert timeless(run) == timeless(place / "enough")
    assert "changes" not in read_manifest(run).arithmetic.model_dump()
    # And the advice works: a new run with shorter examples that goes on with what was learned.
    cutoff = int(problem.fix.split("--cutoff_len ")[1].split()[0])
    shorter = {"cutoff_len": cutoff, "adapter_name_or_path": str(run)}
    assert train(place, "shorter", **shorter)


def test_where_not_even_a_tiny_step_fits_nothing_is_pretended(place: Path) -> None:
    with failing_allocator(lambda at: True), pytest.raises(CapacityError) as caught:
        list(Finetune(prepare_run(settings(place, "nothing"))).run())
    assert "--cutoff_len" in caught.value.fix
    assert "--resume" not in caught.value.fix
    assert read_manifest(place / "nothing").state == "stopped"


def test_no_memory_elsewhere_is_said_in_three_lines(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "danlu.train.job.finetune.model_card", lambda *_values, **_named: full_host()
    )
    with pytest.raises(CapacityError) as caught:
        list(Finetune(prepare_run(settings(place, "card"))).run())
    assert "DefaultCPUAllocator" in caught.value.why
    assert read_manifest(place / "card").state == "failed"
