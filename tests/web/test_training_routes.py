"""The page of training: every setting is on it, no path is, and the plan says what comes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from danlu.device.detect import select
from danlu.device.facts import budget_bytes
from danlu.settings.resolve import resolve
from danlu.train.settings import TrainSettings
from danlu.web.newest import Newest
from danlu.web.training.settings_form import ELSEWHERE
from tests.helpers.studio import StudioClient, studio_client
from tests.helpers.waiting import until

GIB = 2**30


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StudioClient]:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    with studio_client(tmp_path, has_model=False) as opened:
        yield opened


def plan(client: StudioClient, **choice: Any) -> dict[str, Any]:
    body = {"name": "mine", "dataset": "example", **choice}
    answer = client.post("/studio/training/plan", json=body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_every_setting_is_on_the_page_or_chosen_there_in_another_way(client: StudioClient) -> None:
    form = client.get("/studio/training/form").json()
    names = [option["name"] for group in form["groups"] for option in group["options"]]
    assert sorted(names) == sorted(TrainSettings.model_fields.keys() - ELSEWHERE)
    assert set(form["presets"]) == {"tutorial", "quality", "quick", "starter"}
    options = {option["name"]: option for group in form["groups"] for option in group["options"]}
    assert options["lora_dropout"]["greatest"] == 1
    assert options["lora_dropout"]["kind"] == "number"
    assert options["finetuning_type"]["choices"] == ["lora", "full"]
    assert options["report"]["kind"] == "switch"


def test_helps_are_in_the_language_of_the_page(client: StudioClient) -> None:
    form = client.get("/studio/training/form", headers={"accept-language": "zh"}).json()
    (rank,) = [o for g in form["groups"] for o in g["options"] if o["name"] == "lora_rank"]
    assert "秩" in rank["help"]


def test_the_plan_says_what_will_happen(client: StudioClient, tmp_path: Path) -> None:
    found = plan(client, values={"max_steps": 6, "val_size": 5})
    assert found["fits"] is True
    assert found["steps"]["total"] == 6
    assert found["data"]["held_out_rows"] == 5
    assert 0 < found["needed_bytes"] < found["budget_bytes"]
    assert found["disk"]["folder"] == str(tmp_path / "studio" / "runs" / "mine")
    assert found["disk"]["bytes"] > 0
    # The command and the file mean the same training.
    given = yaml.safe_load(found["yaml"])
    words = [f"--{name}={value}" for name, value in given.items()]
    assert resolve(TrainSettings, words, {}).values.max_steps == 6
    assert "--max_steps 6" in found["command"]
    assert not (tmp_path / "studio" / "runs" / "mine").exists()


def test_a_preset_gives_what_is_not_given(client: StudioClient) -> None:
    found = plan(client, preset="quality", values={"lora_rank": 4})
    assert found["values"]["lora_rank"] == 4
    assert found["values"]["learning_rate"] == 3e-4
    assert found["origins"]["learning_rate"] == "preset quality"


def test_the_smallest_change_that_is_proposed_fits(
    client: StudioClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By its shape: the model's files are not here.
    monkeypatch.setattr("danlu.train.job.dry_run.budget_bytes", lambda *_a, **_b: 40 * GIB)
    too_large = {"finetuning_type": "full", "dtype": "bfloat16"}
    found = plan(client, model="Qwen3-8B", values=too_large)
    assert found["fits"] is False
    assert found["needed_bytes"] > found["budget_bytes"]
    assert found["change"]["finetuning_type"] == "lora"
    assert plan(client, model="Qwen3-8B", values=too_large | found["change"])["fits"] is True


def test_the_studios_own_memory_is_not_there_for_a_training(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = select("cpu")
    monkeypatch.setattr("danlu.device.facts.free_bytes", lambda _device: 3 * GIB)
    monkeypatch.setattr("danlu.device.facts.used_bytes", lambda _device: 2 * GIB)
    own, other = budget_bytes(device), budget_bytes(device, own_process=False)
    assert other == 3 * GIB
    assert own > other
    # Several processes on a CPU have its memory together.
    assert budget_bytes(device, processes=2) == 2 * GIB + 3 * GIB // 2


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"lora_dropout": 2}, "from 0 to below 1"),
        ({"lora_rank": "many"}, "whole number"),
        ({"output_dir": "/tmp/elsewhere"}, "output_dir"),
        ({"dataset": "/etc/passwd"}, "dataset"),
        ({"logging_dir": "/tmp"}, "logging_dir"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_what_does_not_suit_is_refused_with_the_reason(
    client: StudioClient, values: dict[str, Any], why: str
) -> None:
    assert why in plan(client, values=values)["refusal"]


def test_a_refusal_names_the_data_as_the_page_does(client: StudioClient) -> None:
    uploaded = client.post(
        "/studio/data/uploads",
        params={"name": "questions.csv"},
        content=b"frage,antwort\nWer?,Ich.\n",
        headers={"content-type": "application/octet-stream"},
    )
    refusal = plan(client, dataset=uploaded.json()["id"])["refusal"]
    assert "questions.csv" in refusal
    assert "/" not in refusal


@pytest.mark.parametrize(
    "choice", [{"model": "/etc"}, {"dataset": "../../etc/passwd"}, {"adapter": "0" * 16}]
)
def test_only_what_is_listed_can_be_chosen(client: StudioClient, choice: dict[str, str]) -> None:
    assert plan(client, **choice)["refusal"]


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-flag", "a b", "x" * 65, "a\0b"])
def test_a_name_is_no_path(client: StudioClient, name: str) -> None:
    assert plan(client, name=name)["name_problem"]
    body = {"name": name, "dataset": "example"}
    assert client.post("/studio/training/queue", json=body).status_code == 400


def test_a_name_is_proposed_that_is_free(client: StudioClient, tmp_path: Path) -> None:
    (tmp_path / "studio" / "runs" / "数据").mkdir(parents=True)
    proposed = client.get("/studio/training/name", params={"wanted": "数据/.."}).json()["name"]
    assert proposed == "数据-2"
    assert plan(client, name=proposed)["name_problem"] == ""


def test_a_model_that_is_not_here_is_planned_but_not_started(client: StudioClient) -> None:
    assert plan(client, model="Qwen3-0.6B")["data"]["is_estimated"] is True
    body = {"name": "mine", "dataset": "example", "model": "Qwen3-0.6B"}
    answer = client.post("/studio/training/queue", json=body)
    assert answer.status_code == 400
    assert client.get("/studio/training/queue").json() == []


def test_of_plans_that_wait_only_the_newest_is_made() -> None:
    may_go = threading.Event()
    made: list[int] = []

    def work(number: int) -> int:
        may_go.wait(60)
        made.append(number)
        return number

    async def three() -> list[int | None]:
        newest = Newest()
        first = asyncio.create_task(newest.newest(lambda: work(1)))
        await until(lambda: newest._lock.locked())
        others = [asyncio.create_task(newest.newest(lambda n=n: work(n))) for n in (2, 3)]
        await asyncio.sleep(0)
        may_go.set()
        return [await task for task in (first, *others)]

    assert asyncio.run(three()) == [1, None, 3]
    assert made == [1, 3]
