"""Models in the studio: what is listed may be loaded, used and removed, and nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu.device.detect import select
from danlu.files.committed import committed_folder, discard
from danlu.hub.load import load_for_answers
from danlu.hub.names import default_name
from danlu.hub.store import complete_folder, unfinished_folder
from danlu.lora.peft_files import write_adapter
from danlu.server.lifecycle.opening import open_serving
from danlu.web.models import gauges as gauges_module
from danlu.web.models.model_list import merged_models_folder
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.models.tiny_engine import random_adapter
from tests.helpers.serving.outbound import Outbound
from tests.helpers.studio import StudioClient, studio_client
from tests.helpers.waiting import wait_until


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[StudioClient]:
    with studio_client(tmp_path) as client:
        yield client


def loaded(studio: StudioClient) -> dict[str, Any]:
    answer: dict[str, Any] = studio.get("/studio/models/loaded").json()
    return answer


def load(studio: StudioClient, name: str) -> dict[str, Any]:
    assert studio.post("/studio/models/load", json={"name": name}).json()["state"] == "loading"
    wait_until(lambda: loaded(studio)["state"] != "loading")
    return loaded(studio)


def named(models: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {model.get("id", model["name"]): model for model in models}


def test_what_is_here_and_what_would_fit(studio: StudioClient, outbound: Outbound) -> None:
    write_model_folder(complete_folder("Qwen3-0.6B"))
    write_model_folder(merged_models_folder() / "ember")
    half = unfinished_folder("Qwen3-8B")
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(bytes(1000))
    listing = studio.get("/studio/models").json()
    here, offers = named(listing["here"]), named(listing["catalogue"])
    assert {name: model["kind"] for name, model in here.items()} == {
        "starter": "starter",
        "Qwen3-0.6B": "pulled",
        "ember": "merged",
    }
    assert here["starter"]["is_default"]
    assert "--engine vllm" in here["ember"]["vllm_command"]
    assert offers["Qwen3-0.6B"]["folder"]
    assert offers["Qwen3-8B"]["partial_bytes"] == 1000
    assert offers["Qwen3-8B"]["memory_bytes"]["chat_bf16"] > 16e9
    assert set(offers["Qwen3-8B"]["fits"].values()) <= {True, False}
    experts = offers["Qwen3-30B-A3B"]
    assert experts["active_parameters"] < experts["parameters"] / 8
    assert outbound.tried == []


def test_a_model_leaves_the_memory_before_another_comes(studio: StudioClient) -> None:
    assert studio.post("/studio/models/eject", json={}).json()["state"] == "none"
    assert studio.post("/v1/chat/completions", json={}).status_code == 503
    write_model_folder(merged_models_folder() / "ember")
    state = load(studio, "ember")
    assert (state["state"], state["model"]) == ("ready", "ember")
    assert named(studio.get("/studio/models").json()["here"])["ember"]["is_loaded"]
    first = weakref.ref(studio.studio.server.serving.assistant.loaded.model)  # type: ignore[union-attr]
    assert load(studio, "starter")["model"] == "starter"
    gc.collect()
    assert first() is None
    studio.post("/studio/models/eject", json={})


def test_a_model_that_cannot_be_read_is_said_and_another_one_loads(studio: StudioClient) -> None:
    folder = write_model_folder(merged_models_folder() / "broken")
    (folder / "config.json").write_text("{}", "utf-8")
    state = load(studio, "broken")
    assert state["state"] == "failed"
    assert "config.json" in state["detail"]
    assert load(studio, "starter")["state"] == "ready"
    studio.post("/studio/models/eject", json={})


@pytest.mark.parametrize("name", ["/etc", "..", "../home", "Qwen3-8B", "run:0", "starter/", " "])
def test_only_listed_models_are_opened(studio: StudioClient, tmp_path: Path, name: str) -> None:
    for word in (name, str(write_model_folder(tmp_path / "elsewhere"))):
        for route in ("load", "use"):
            assert studio.post(f"/studio/models/{route}", json={"name": word}).status_code == 400
    assert default_name() == "starter"


def test_one_model_is_loaded_at_a_time(studio: StudioClient) -> None:
    studio.studio.loading.begins("slow")
    refused = studio.post("/studio/models/load", json={"name": "starter"})
    assert refused.status_code == 409
    assert "being loaded" in refused.json()["error"]["message"]
    assert studio.post("/studio/models/eject", json={}).status_code == 409


def test_the_default_and_deleting(studio: StudioClient) -> None:
    pulled = write_model_folder(complete_folder("Qwen3-0.6B"))
    merged = write_model_folder(merged_models_folder() / "ember")
    assert studio.post("/studio/models/use", json={"name": "ember"}).status_code == 200
    assert default_name() == str(merged)
    kept = studio.request("DELETE", "/studio/models/ember", json={})
    assert kept.status_code == 400
    assert "default" in kept.json()["error"]["message"]
    studio.post("/studio/models/use", json={"name": "starter"})
    load(studio, "ember")
    assert (
        "loaded"
        in studio.request("DELETE", "/studio/models/ember", json={}).json()["error"]["message"]
    )
    studio.post("/studio/models/eject", json={})
    for name, folder in (("ember", merged), ("Qwen3-0.6B", pulled)):
        assert (
            studio.request("DELETE", f"/studio/models/{name}", json={}).json()["freed_bytes"]
            > 10_000
        )
        assert not folder.exists()
        assert studio.request("DELETE", f"/studio/models/{name}", json={}).status_code == 400
    assert studio.request("DELETE", "/studio/models/starter", json={}).status_code == 400


def test_gauges_and_facts(studio: StudioClient, monkeypatch: pytest.MonkeyPatch) -> None:
    gauges = studio.get("/studio/system").json()
    for memory in (gauges["host_memory"], gauges["disk"]):
        assert 0 < memory["used"] < memory["total"]
    assert 0 < gauges["host_memory"]["own"] < gauges["host_memory"]["total"]
    facts = named(studio.get("/studio/system/doctor").json())
    assert facts["torch"]["value"]
    assert facts["default_model"]["good"] is True
    # Something bad has a command that repairs it.
    folder = write_model_folder(merged_models_folder() / "gone")
    studio.post("/studio/models/use", json={"name": "gone"})
    discard(folder)
    monkeypatch.setattr(gauges_module, "free_bytes", lambda _path: 2**20)
    facts = named(studio.get("/studio/system/doctor").json())
    assert facts["default_model"]["good"] is False
    assert facts["default_model"]["fix"].endswith("danlu use starter")
    assert (facts["disk"]["value"], facts["disk"]["good"]) == ("1.0 MiB", False)


def test_adapters_of_the_start_come_back_with_their_model(tmp_path: Path) -> None:
    for name in ("ember", "other"):
        write_model_folder(merged_models_folder() / name)
    ember = merged_models_folder() / "ember"
    with committed_folder(tmp_path / "fox") as draft:
        like = load_for_answers(
            str(ember), device=select("cpu"), dtype=None, quantization=None
        ).model
        write_adapter(draft, random_adapter(5, like), base_model=str(ember))
    given = {"model_name_or_path": str(ember), "adapter": (f"fox={tmp_path / 'fox'}",)}
    with studio_client(tmp_path, has_model=False, **given) as studio:
        state = studio.studio.server
        studio.studio.loading.has(open_serving(state.settings, state.adapter_folders))

        def voices() -> set[str]:
            return {voice["id"] for voice in studio.get("/studio/voices").json()}

        assert voices() == {"base", "fox"}
        assert load(studio, "other")["state"] == "ready"
        assert voices() == {"base"}
        assert load(studio, "ember")["state"] == "ready"
        assert voices() == {"base", "fox"}
        studio.post("/studio/models/eject", json={})
