"""The before/after report: right figures, in bounded time, from every kind of run."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from danlu.dialog.settings import ModelSettings
from danlu.errors import UsageError
from danlu.runs.manifest import read_manifest, write_manifest
from danlu.runs.metrics import read_metrics
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.loop.trainer import Interrupted
from danlu.train.settings import TrainSettings
from danlu.workflows.report import measure
from danlu.workflows.report.before_after import BeforeAfter
from danlu.workflows.report.measure import Stage
from danlu.workflows.report.prompts import GENERAL_PROMPTS
from danlu.workflows.report.report import write_report
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import SHORT, write_rows

FLOAT32 = ModelSettings(dtype="float32", device="cpu")
HOSTILE = "<script>alert(1)</script> \x1b[31m ``` | <img src=x>"


def train(place: Path, name: str, rows: Path, **changes: Any) -> Path:
    """Train a short run that evaluates before and after; return its folder."""
    settings = {
        **SHORT,
        "model_name_or_path": str(place / "model"),
        "dataset": str(rows),
        "output_dir": str(place / name),
        "max_steps": 12,
        "lora_dropout": 0.0,
        "val_size": 0.2,
        "eval_on_start": True,
        **changes,
    }
    for _event in Finetune(prepare_run(TrainSettings(**settings))).run():
        pass
    return place / name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, rows and a finished run."""
    folder = tmp_path_factory.mktemp("place")
    write_model_folder(folder / "model")
    train(folder, "run", write_rows(folder / "rows.jsonl"))
    return folder


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    sampling = measure.SAMPLING
    short = type(sampling)(temperature=0.0, max_tokens=12)
    monkeypatch.setattr(measure, "SAMPLING", short)


def report(folder: Path, settings: ModelSettings = FLOAT32, **changes: Any) -> BeforeAfter:
    """Write a report and return what it found."""
    *stages, last = write_report(folder, settings, **changes)
    assert {stage.name for stage in stages if isinstance(stage, Stage)} == {
        *("loss", "held_out", "general")
    }
    assert isinstance(last, BeforeAfter)
    return last


def losses(found: BeforeAfter) -> list[float]:
    return [side.loss for side in found.losses] if found.losses else []


def count(found: BeforeAfter) -> int:
    return found.losses[0].num_rows if found.losses else 0


def page(folder: Path) -> str:
    return (folder / "report.md").read_text(encoding="utf-8")


def trained_losses(folder: Path) -> list[float]:
    """What the trainer itself measured on the held-out rows: before the first step, at the end."""
    found = [r["eval_loss"] for r in read_metrics(folder) if r.get("eval_loss") is not None]
    return [found[0], found[-1]]


def test_its_losses_are_those_that_training_measured(place: Path) -> None:
    found = report(place / "run")
    before, after = losses(found)
    assert [before, after] == pytest.approx(trained_losses(place / "run"), rel=1e-5)
    assert count(found) == 8
    assert after < before - 0.1
    text = page(place / "run")
    assert f"| held-out loss, 8 of 8 rows | {before:.4f} | {after:.4f} |" in text
    assert f"{trained_losses(place / 'run')[1]:.4f} at step 12" in text


def test_it_shows_every_held_out_row_with_both_answers(place: Path) -> None:
    found = report(place / "run")
    assert found.judged is not None
    assert found.judged.held_out
    assert len(found.judged.questions) == 8
    rows = (place / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    for question, before, after in zip(
        found.judged.questions, found.before.held_out, found.after.held_out, strict=True
    ):
        row = json.loads(rows[int(question.place.rpartition(":")[2]) - 1])
        assert question.conversation.messages[-1].content == row["instruction"]
        assert question.reference.content == row["output"]
        assert before != after
    html = (place / "run" / "report.html").read_text(encoding="utf-8")
    assert html.count("<article>") == 8
    for colour in ("faint", "train", "accent"):
        assert len(re.findall(f"<path [^>]*stroke: var\\(--{colour}\\)", html)) == 1
    assert len(found.passed()) == len(GENERAL_PROMPTS)


def test_the_same_run_gives_the_same_report(place: Path) -> None:
    texts = []
    for _time in (1, 2):
        report(place / "run")
        texts.append(re.sub(r"\d+\.\d s, loading", "", page(place / "run")))
    assert texts[0] == texts[1]


def test_more_rows_than_fit_are_shown_twenty_of(place: Path) -> None:
    rows = write_rows(place / "many.jsonl", 60)
    found = report(train(place, "many", rows, val_size=30, max_steps=2))
    assert count(found) == 30
    assert len(found.before.held_out) == len(found.after.held_out) == 20


def test_without_held_out_rows_it_draws_training_rows_over_all_and_says_so(place: Path) -> None:
    """The file begins with short English rows; Chinese and long ones must not be forgotten."""
    file = place / "both.jsonl"
    answers = [f"It is fox {n}." + " Yes." * (n // 10 * 8) for n in range(40)]
    answers += [f"这是第{n}只狐狸。" for n in range(20)]
    rows = [{"instruction": f"Q{n}?", "output": answer} for n, answer in enumerate(answers)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    folder = train(place, "all", file, val_size=0.0, max_steps=2)
    found = report(folder)
    assert found.judged is not None
    assert not found.judged.held_out
    lines = [int(question.place.rpartition(":")[2]) for question in found.judged.questions]
    assert len(lines) == len(set(lines)) == 20
    parts = [range(1, 11), range(11, 21), range(21, 31), range(31, 41), range(41, 61)]
    counts = [sum(line in part for line in lines) for part in parts]
    assert min(counts) >= 3
    assert counts[4] in (6, 7)
    assert "No rows were held out" in page(folder)
    assert "loss on training rows, 20 of 60" in page(folder)
    assert "as in the data, 20 of 60 rows" in page(folder)
    first, last = (r["loss"] for r in read_metrics(folder) if r.get("loss") is not None)
    assert (
        f"| training loss, mean of the first and of the last steps | {first:.4f} | {last:.4f} |"
        in page(folder)
    )
    assert "held-out loss" not in page(folder)


def test_an_adapter_that_was_trained_further_is_compared_with_what_it_was(place: Path) -> None:
    rows = place / "rows.jsonl"
    first = place / "run"
    folder = train(place, "further", rows, adapter_name_or_path=str(first), max_steps=4)
    before, after = losses(report(folder))
    assert [before, after] == pytest.approx(trained_losses(folder), rel=1e-5)
    assert before == pytest.approx(trained_losses(first)[1], rel=1e-5)
    assert "| | run | tuned |" in page(folder).replace("|  |", "| |")
    # Worse than before is not hidden behind the base, which is much worse.
    worse = train(
        place, "worse", rows, adapter_name_or_path=str(first), max_steps=12, learning_rate=0.5
    )
    found = report(worse)
    assert losses(found)[1] > losses(found)[0]
    assert "some of what run knew was forgotten" in page(worse)
    shutil.move(first / "final", place / "kept")
    shutil.move(first, place / "away")
    try:
        gone = report(folder)
        assert losses(gone)[0] > before
        assert "compares with the base model" in page(folder)
        assert "| base |" in page(folder)
    finally:
        shutil.move(place / "away", first)
        shutil.move(place / "kept", first / "final")


def test_full_training_compares_two_models(place: Path) -> None:
    folder = train(place, "full", place / "rows.jsonl", finetuning_type="full", learning_rate=1e-3)
    found = report(folder)
    assert losses(found) == pytest.approx(trained_losses(folder), rel=2e-3)
    assert found.tuned == "final"
    assert found.before.held_out != found.after.held_out


def test_an_interrupted_run_is_judged_by_its_checkpoint(place: Path) -> None:
    settings = {**SHORT, "model_name_or_path": str(place / "model"), "lora_dropout": 0.0}
    output = place / "interrupted"
    given = TrainSettings(
        **settings, dataset=str(place / "rows.jsonl"), output_dir=str(output), val_size=0.2
    )
    job = Finetune(prepare_run(given))
    with suppress(Interrupted):
        for event in job.run():
            if getattr(event, "step", 0) == 3:
                job.request_stop()
    found = report(output)
    assert found.tuned == "checkpoint-3"
    assert "interrupted" in page(output)


def test_a_run_without_weights_says_so(place: Path) -> None:
    for kind, name in (("lora", "bare"), ("full", "bare-full")):
        folder = place / name
        folder.mkdir()
        write_manifest(folder, read_manifest(place / "run").changed(kind=kind))
        with pytest.raises(UsageError, match=r"no (adapter|weights) yet"):
            report(folder)
        assert not (folder / "report.html").exists()


def test_hostile_rows_are_shown_as_text(place: Path) -> None:
    file = place / "hostile.jsonl"
    lines = [json.dumps({"instruction": HOSTILE, "output": f"{n} {HOSTILE}"}) for n in range(10)]
    file.write_text("\n".join(lines), encoding="utf-8")
    folder = train(place, "<b>hostile", file, max_steps=2)
    report(folder)
    html = (folder / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "&lt;b&gt;hostile" in html
    assert not re.search(r"<(script|img|b)\b", html)
    assert "\x1b" not in html + page(folder)


def test_time_is_bounded_and_what_is_missing_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "PART_TOKENS", 1)
    ticks = itertools.count()

    def clock() -> float:
        return float(next(ticks))

    found = report(place / "run", limit_s=8.0, clock=clock)
    # A second passes at each look at the clock: eight or so are for work, and each prompt that is
    # then given up costs one more.
    assert next(ticks) < 8 + 2 * (8 + len(GENERAL_PROMPTS)) + 8
    assert 0 < count(found) < 8
    assert found.num_unfinished > len(GENERAL_PROMPTS)
    text = page(place / "run")
    assert "The time sufficed for the loss of" in text
    assert "danlu eval" in text
    assert "--report_seconds 80" in text


def test_changed_or_lost_data_is_said(place: Path) -> None:
    rows = write_rows(place / "moving.jsonl")
    folder = train(place, "moved", rows, max_steps=2)
    report(folder)
    assert "has changed" not in page(folder)
    write_rows(rows, 38)
    report(folder)
    assert "The data has changed since the run" in page(folder)
    rows.unlink()
    found = report(folder)
    assert found.judged is None
    assert "could not be read again" in page(folder)
    assert len(found.passed()) == len(GENERAL_PROMPTS)


def test_a_base_that_has_moved_can_be_named(place: Path) -> None:
    folder = train(place, "orphan", place / "rows.jsonl", max_steps=2)
    run = read_manifest(folder)
    gone = run.base.model_copy(update={"path": str(place / "nowhere")})
    write_manifest(folder, run.changed(base=gone.model_dump()))
    with pytest.raises(UsageError):
        report(folder)
    moved = shutil.copytree(place / "model", place / "new-place")
    named = FLOAT32.model_copy(update={"model_name_or_path": str(moved)})
    assert losses(report(folder, named))


def test_data_and_cost_come_from_the_run(place: Path) -> None:
    folder = train(place, "counted", place / "rows.jsonl", max_steps=2)
    run = read_manifest(folder)
    data = run.data.model_dump() | {
        "num_left_out": 2,
        "left_out_rows": ["a.jsonl:3: no | answer", "a.jsonl:9: empty"],
        "num_shortened": 5,
        "findings": {"empty_answer": 2},
    }
    results = {**run.results, "peak_memory_bytes": 1.5e9}
    write_manifest(folder, run.changed(data=data, results=results))
    report(folder)
    text = page(folder)
    for line in (
        "| rows read | 40 |",
        "| rows held out | 8 |",
        "| rows left out | 2 |",
        "| rows shortened | 5 |",
        "| found: empty_answer | 2 |",
        "| left out | a.jsonl:3: no \\| answer |",
        "| peak memory | 1.4 GiB |",
        "| energy | not measured |",
        "| steps | 2 |",
    ):
        assert line in text
    tokens = sum(record.get("num_tokens", 0) for record in read_metrics(folder))
    assert f"| tokens | {tokens:,} |" in text
