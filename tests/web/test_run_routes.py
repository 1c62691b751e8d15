"""A run on its page: a real training with its curves and report, and runs as others left them."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from danlu.cli.main import main
from danlu.errors import UsageError
from danlu.files.lock import FolderLock
from danlu.runs import registry
from danlu.runs.manifest import ArithmeticRecord, ResumeRecord
from danlu.runs.metrics import METRICS_FILE, Metrics, losses_after, truncate_after
from danlu.server.lifecycle.opening import open_serving
from danlu.server.served_adapters import AdapterFolders
from danlu.server.state import ServerState
from danlu.web.available_voices import AvailableVoices
from danlu.web.runs import run_following, run_routes
from danlu.web.runs.metric_table import MetricTables, read_table
from danlu.web.runs.run_curve import MOST_POINTS, curve_of
from danlu.web.settings import WebSettings
from tests.helpers.run_folders import step_record, write_run
from tests.helpers.source import ROOT
from tests.helpers.studio import StudioClient, studio_client
from tests.helpers.waiting import wait_until
from tests.web.conftest import Upload

EXAMPLE = ROOT / "examples" / "identity.jsonl"


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioClient]:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    with studio_client(tmp_path, has_model=False) as opened:
        yield opened


def get(client: StudioClient, path: str) -> Any:
    answer = client.get(f"/studio/runs{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_training_from_the_start_to_the_trash(client: StudioClient, tmp_path: Path) -> None:
    values = {"max_steps": 6, "save_steps": 2, "device": "cpu"}
    body = {"name": "第一次", "dataset": "example", "values": values}
    run = client.post("/studio/training/queue", json=body).json()["run"]
    assert get(client, "")[0]["state"] in ("starting", "running")
    queue = client.studio.queue

    def is_over() -> bool:
        queue.advance()
        entry = queue.of_run(run)
        return entry is not None and entry.is_over

    wait_until(is_over)
    (card,) = get(client, "?search=第一")
    assert (card["state"], card["step"], card["total"]) == ("finished", 6, 6)

    details = get(client, f"/{run}")
    assert [checkpoint["step"] for checkpoint in details["checkpoints"]][-1] == 6
    assert details["dataset"] == "example"
    given = {one["name"]: one["value"] for one in details["settings"] if one["is_given"]}
    assert given["max_steps"] == 6
    assert "6/6" in details["log"] or "saved" in details["log"]

    curve = get(client, f"/{run}/curve")
    assert curve["series"]["loss"]["x"] == [1, 2, 3, 4, 5, 6]
    assert all(value > 0 for value in curve["series"]["memory_bytes"]["y"])

    # A page that comes back gets what is behind its last event, and no more.
    points = [event for _id, event in client.events(f"/studio/runs/{run}/events", seen=2)
              if event["kind"] == "points"]  # fmt: skip
    told = points[0]["steps"]["step"] + points[0]["held_out"]["step"]
    assert len(told) == curve["count"] - 2

    report = get(client, f"/{run}/report")
    assert any(part["kind"] == "side_by_side" for part in report["parts"])
    rows = list(csv.DictReader(io.StringIO(client.get(f"/studio/runs/{run}/metrics.csv").text)))
    assert [row["step"] for row in rows if row["loss"]] == ["1", "2", "3", "4", "5", "6"]
    voices = [voice["id"] for voice in client.get("/studio/voices").json()]
    assert f"run:{run}" in voices

    freed = client.request("DELETE", f"/studio/runs/{run}", json={}).json()["bytes"]
    assert freed > 100_000
    assert get(client, "") == []
    assert client.get("/studio/training/queue").json() == []
    assert get(client, "/trash")["bytes"] == freed
    assert client.post("/studio/runs/trash/empty", json={}).json()["bytes"] == freed
    assert not any((tmp_path / "studio" / "runs" / ".trash").iterdir())


def test_a_report_names_rows_as_the_page_does(
    client: StudioClient, upload: Upload, tmp_path: Path
) -> None:
    mine = upload(b"[]", "my.json")
    known = next(each for each in client.studio.data.all() if each.id == mine)
    run = write_run(tmp_path / "mine")
    parts = [
        {"kind": "heading", "text": "Before and after"},
        {"kind": "side_by_side", "place": f"{known.file}:3", "prompt": "Q", "answers": []},
    ]
    (tmp_path / "mine" / "report.json").write_text(json.dumps({"parts": parts}), encoding="utf-8")
    assert get(client, f"/{run}/report")["parts"][1]["place"] == "my.json:3"


def test_a_run_that_goes_on_is_not_removed(client: StudioClient, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", state="running", ended="")
    with FolderLock(tmp_path / "mine"):
        answer = client.request("DELETE", f"/studio/runs/{run}", json={})
    assert answer.status_code == 400
    assert (tmp_path / "mine").is_dir()


def test_title_and_note_are_kept_beside_the_run(client: StudioClient, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine")
    body = {"title": "<img src=x>", "note": "rank 8"}
    assert client.patch(f"/studio/runs/{run}", json=body).status_code == 200
    (card,) = get(client, "?search=rank")
    assert card["title"] == "<img src=x>"
    assert (tmp_path / "mine").is_dir()


def test_what_was_computed_twice_is_compared_to_the_last_bit(
    client: StudioClient, tmp_path: Path
) -> None:
    third = 1 / 3
    records = [step_record(1, 3.0), step_record(2, third), step_record(3, 0.5)]
    resumes = (
        ResumeRecord(step=1, lost={2: third, 3: 0.5}),
        ResumeRecord(step=1, lost={2: third + 1e-12}),
        ResumeRecord(step=3, lost={}),
        ResumeRecord(step=3, lost={4: 1.0}),
    )
    run = write_run(tmp_path / "mine", records, arithmetic=ArithmeticRecord(resumes=resumes))
    equal, other, none, not_yet = get(client, f"/{run}")["proofs"]
    assert (equal["compared"], equal["equal"]) == (2, 2)
    assert (other["compared"], other["equal"]) == (1, 0)
    assert other["shown"] == [{"step": 2, "before": third + 1e-12, "after": third}]
    assert (none["lost"], none["compared"]) == (0, 0)
    assert (not_yet["lost"], not_yet["compared"]) == (1, 0)


def test_losses_that_a_resumed_run_computes_again_are_found(tmp_path: Path) -> None:
    write_run(tmp_path, [step_record(n, n / 7) for n in range(1, 5)], is_known=False)
    with (tmp_path / METRICS_FILE).open("a") as file:
        file.write('{"step": 5, "lo')  # its writer died here
    assert losses_after(tmp_path, 2) == {3: 3 / 7, 4: 4 / 7}


def test_no_peak_of_a_long_curve_is_lost(tmp_path: Path) -> None:
    steps = 100_000
    losses = np.random.default_rng(1).random(steps)
    losses[61_234], losses[77_000] = 50.0, -50.0
    lines = (json.dumps({"step": n + 1, "loss": float(loss)}) for n, loss in enumerate(losses))
    (tmp_path / METRICS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = read_table(tmp_path)
    series = curve_of(table)["series"]["loss"]
    assert len(series["x"]) <= MOST_POINTS
    assert (series["x"][series["y"].index(50.0)], series["x"][series["y"].index(-50.0)]) == (
        61_235,
        77_001,
    )
    assert series["x"] == sorted(series["x"])
    assert np.mean(series["mean_y"]) == pytest.approx(losses.mean(), abs=1e-9)
    near = curve_of(table, first=61_200, last=61_300)["series"]["loss"]
    assert near["x"] == list(range(61_200, 61_301))


def test_only_what_was_added_is_read_and_what_was_taken_back_is_noticed(tmp_path: Path) -> None:
    tables = MetricTables()
    write_run(tmp_path, [step_record(1, 3.0), {"step": 1, "eval_loss": 2.5}], is_known=False)
    first = tables.of(tmp_path)
    assert (first.count, first.last("eval_loss")) == (2, 2.5)
    Metrics(tmp_path).append(step_record(2, 2.0))
    second = tables.of(tmp_path)
    assert (second.count, second.generation, second.last("loss")) == (3, first.generation, 2.0)
    truncate_after(tmp_path, 1)
    third = tables.of(tmp_path)
    assert (third.count, third.step) == (2, 1)
    assert third.generation != first.generation


def test_a_page_is_told_that_records_were_taken_back(client: StudioClient, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", [step_record(1, 3.0)])
    events = [event for _id, event in client.events(f"/studio/runs/{run}/events", seen=9)]
    assert events[0] == {"kind": "reload"}
    assert events[1]["card"]["state"] == "finished"


def test_a_run_without_a_checkpoint_cannot_go_on(client: StudioClient, tmp_path: Path) -> None:
    run = write_run(tmp_path / "mine", state="interrupted")
    assert client.post(f"/studio/runs/{run}/resume", json={}).status_code == 400
    assert client.post(f"/studio/runs/{run}/stop", json={}).status_code == 400
    assert get(client, "")[0]["state"] == "interrupted"


def test_a_stopped_run_can_answer_with_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder holds checkpoints and no result; the newest one answers, as a merge takes it."""
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    words = ["train", "--dataset", str(EXAMPLE), "--output_dir", str(tmp_path / "fox")]
    assert main([*words, "--max_steps", "4", "--save_steps", "2", "--report", "false"]) == 0
    shutil.rmtree(tmp_path / "fox" / "final")
    state = ServerState.of(WebSettings())
    state.serving = open_serving(state.settings, AdapterFolders())
    try:
        voices = AvailableVoices(state)
        (voice,) = (one for one in voices.all() if one.name == "fox")
        assert voice.fits
        assert voices.answering(voice.id).adapter is not None
        assert voices.answering(f"{voice.id}@2").adapter is not None
        with pytest.raises(UsageError, match="step 3"):
            voices.answering(f"{voice.id}@3")
    finally:
        state.serving.service.stop()


def test_who_can_answer_is_listed_without_reading_curves(
    client: StudioClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of hundreds of runs they are seconds of work, which answers would have to wait for."""
    started = {"first": "2026-01-01T00:00:00", "second": "2026-01-02T00:00:00"}
    for name, when in started.items():
        write_run(tmp_path / name, started=when)
        (tmp_path / name / "final").mkdir()
    read: list[Path] = []
    monkeypatch.setattr(registry, "read_metrics", lambda folder: read.append(folder) or [])
    names = [voice["name"] for voice in client.get("/studio/voices").json()]
    assert names == ["", "second", "first"]
    assert client.get("/studio/teach").json()["runs"] == []
    assert read == []


def test_a_removed_run_leaves_nothing_to_one_of_its_name(
    client: StudioClient, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "fox")
    client.patch(f"/studio/runs/{run}", json={"title": "My best", "note": "lr was good"})
    assert client.request("DELETE", f"/studio/runs/{run}", json={}).status_code == 200
    assert client.get("/studio/voices").json()[1:] == []
    assert write_run(tmp_path / "fox") == run
    (card,) = get(client, "")
    assert (card["title"], card["note"]) == ("fox", "")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", b'{"state": "runn'),
        ("run.json", b'{"detail": "\\ud800"}'),
        (METRICS_FILE, b'{"step": 1' + b"0" * 300 + b', "loss": 1.0}\n'),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(
    client: StudioClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, content: bytes
) -> None:
    monkeypatch.setattr(run_following, "_EVERY_S", 0.01)
    write_run(tmp_path / "good")
    bad = write_run(tmp_path / "bad")
    (tmp_path / "bad" / file).write_bytes(content)
    assert "good" in [card["name"] for card in get(client, "")]
    client.events(f"/studio/runs/{bad}/events")  # it ends


def test_a_server_that_stops_lets_go_of_its_pages(client: StudioClient, tmp_path: Path) -> None:
    """Also where there is always something to tell, as of a run that goes on."""
    folder = tmp_path / "fox"
    run = write_run(folder, [step_record(1, 2.0)], state="running", ended="")
    with FolderLock(folder), suppress(AssertionError):
        client.studio.server.is_stopping = True
        steps = iter(range(2, 10_000))
        metrics = Metrics(folder)
        follower = run_following.follow_run
        with pytest.MonkeyPatch.context() as patched:

            async def busy(*words: Any) -> AsyncIterator[tuple[int, str] | None]:
                async for piece in follower(*words):
                    metrics.append(step_record(next(steps), 1.0))
                    yield piece

            patched.setattr(run_routes, "follow_run", busy)
            client.studio.server.is_stopping = False
            app_state = client.studio.server
            threading.Timer(1.0, lambda: setattr(app_state, "is_stopping", True)).start()
            client.events(f"/studio/runs/{run}/events")
    assert next(steps) < 50
