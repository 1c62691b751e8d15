"""Merging and exporting from a page: the plan, the check, and nothing half written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.files import os_errors
from danlu.files.committed import verify
from danlu.runs.registry import run_id
from danlu.web.merging import merges
from danlu.web.models.model_list import exports_folder, merged_models_folder
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import train_words, write_rows
from tests.helpers.studio import StudioClient, studio_client
from tests.helpers.waiting import wait_until


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with one finished run."""
    folder = tmp_path_factory.mktemp("studio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DANLU_HOME", str(folder / "home"))
        model = write_model_folder(folder / "model")
        rows = write_rows(folder / "rows.jsonl")
        assert main(train_words(model, rows, folder / "fox run", max_steps=2, save_steps=1)) == 0
        yield folder


@pytest.fixture
def studio(trained: Path, tmp_path: Path) -> Iterator[StudioClient]:
    with studio_client(tmp_path) as client:
        yield client
        client.studio.end()


@pytest.fixture
def voice(trained: Path) -> str:
    return f"run:{run_id(trained / 'fox run')}"


def plan(studio: StudioClient, voice: str, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = studio.post(
        "/studio/merge/plan", json={"voice": voice, "name": name}
    ).json()
    return answer


def merged(studio: StudioClient, voice: str, name: str) -> dict[str, Any]:
    begun = studio.post("/studio/merge", json={"voice": voice, "name": name})
    assert begun.json()["state"] == "running"
    last: dict[str, Any] = studio.events("/studio/merge/merge/events")[-1][1]
    return last


def test_a_run_becomes_a_model_that_answers(studio: StudioClient, voice: str) -> None:
    (target,) = studio.get("/studio/merge/targets").json()["targets"]
    assert (target["voice"], target["name"], target["state"]) == (voice, "fox run", "finished")
    assert target["checkpoints"] == [1, 2]
    name = target["suggestion"]
    assert name == "fox-run-merged"
    planned = plan(studio, voice, name)
    assert planned["has_room"]
    assert planned["has_memory"]
    assert planned["folder"] == str(merged_models_folder() / name)
    assert planned["remarks"] == []
    result = merged(studio, voice, name)
    assert (result["state"], result["verdict"]) == ("done", "right")
    assert "KL" in result["figures"]
    verify(merged_models_folder() / name)
    # About as large as was said before.
    assert result["report"]["num_bytes"] == pytest.approx(planned["num_bytes"], rel=0.01)
    # The name is taken now; the list proposes another.
    assert "here already" in plan(studio, voice, name)["problem"]
    answer = studio.get("/studio/merge/targets").json()
    assert answer["targets"][0]["suggestion"] == "fox-run-merged-2"
    assert answer["merge"]["state"] == "done"
    assert studio.post("/studio/models/load", json={"name": name}).status_code == 200
    wait_until(lambda: studio.get("/studio/models/loaded").json()["state"] == "ready")
    studio.post("/studio/models/eject", json={})


def test_a_checkpoint_is_merged_as_what_it_is(studio: StudioClient, voice: str) -> None:
    planned = plan(studio, f"{voice}@1", "first")
    assert planned["adapter"].endswith("checkpoint-1")
    assert "not its end" in planned["remarks"][0]
    assert merged(studio, f"{voice}@1", "first")["report"]["adapter"] == planned["adapter"]


@pytest.mark.parametrize(
    "name",
    ["..", "../x", "a/b", "/tmp/x", ".hidden", "starter", "Qwen3-8B", "名字", "a" * 65, "-x"],
)
def test_a_name_is_no_path(studio: StudioClient, voice: str, name: str) -> None:
    assert "cannot be the name" in plan(studio, voice, name)["problem"]
    assert studio.post("/studio/merge", json={"voice": voice, "name": name}).status_code == 400


@pytest.mark.parametrize("voice", ["run:", "run:..", "/etc", "base", "run:0123456789abcdef"])
def test_only_listed_runs_are_merged(studio: StudioClient, voice: str) -> None:
    assert plan(studio, voice, "x")["problem"]
    assert studio.post("/studio/merge", json={"voice": voice, "name": "x"}).status_code == 400


def test_a_full_disk_is_said_before_anything_is_written(
    studio: StudioClient, voice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os_errors, "free_bytes", lambda _path: 1000)
    monkeypatch.setattr("danlu.web.merging.merge_plan.free_bytes", lambda _path: 1000)
    assert plan(studio, voice, "large")["has_room"] is False
    refused = studio.post("/studio/merge", json={"voice": voice, "name": "large"})
    assert refused.status_code == 503
    assert "No space left" in refused.json()["error"]["message"]
    assert not any(merged_models_folder().glob("*large*"))


def test_a_stopped_merge_leaves_nothing(
    studio: StudioClient, voice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped while the draft is being written; meanwhile no other work begins."""
    begun, goes_on = threading.Event(), threading.Event()
    merge = merges.merge

    def slow(*words: Any, progress: Any, **named: Any) -> Any:
        def show(what: str, done: int, total: int) -> None:
            if what == "merging":
                begun.set()
                goes_on.wait(60)
            progress(what, done, total)

        return merge(*words, progress=show, **named)

    monkeypatch.setattr(merges, "merge", slow)
    studio.post("/studio/merge", json={"voice": voice, "name": "half"})
    begun.wait(60)
    assert studio.post("/studio/merge", json={"voice": voice, "name": "other"}).status_code == 409
    assert studio.post("/studio/merge/export", json={"model": "starter"}).status_code == 409
    assert any(merged_models_folder().glob(".half*"))
    assert studio.post("/studio/merge/merge/stop", json={}).json()["state"] == "stopping"
    goes_on.set()
    assert studio.events("/studio/merge/merge/events")[-1][1]["state"] == "stopped"
    assert not any(merged_models_folder().glob("*half*"))


@pytest.mark.parametrize(("form", "word"), [("gguf", "llama-cli"), ("ollama", "ollama create")])
def test_an_export_says_how_it_is_used(studio: StudioClient, form: str, word: str) -> None:
    for number in ("", "-2"):
        body = {"model": "starter", "form": form, "type": "q8_0"}
        assert studio.post("/studio/merge/export", json=body).json()["state"] == "running"
        done = studio.events("/studio/merge/export/events")[-1][1]
        assert done["state"] == "done"
        assert done["command"].startswith(word)
        file = Path(done["file"])
        assert file.stat().st_size >= done["num_bytes"]
        ending = "-ollama" if form == "ollama" else ""
        assert file.parent == exports_folder() / f"starter-q8_0{ending}{number}"
        got = studio.get(f"/studio/merge/exports/{file.parent.name}/file")
        assert got.content == file.read_bytes()
        assert file.name in got.headers["content-disposition"]
    for name in ("none", "..", "%2e%2e", "starter"):
        assert studio.get(f"/studio/merge/exports/{name}/file").status_code == 404
    assert studio.post("/studio/merge/export", json={"model": "/etc"}).status_code == 400
