"""Pulling from a page: progress, pause and going on, faults that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from danlu.files import download
from danlu.files.committed import verify
from danlu.hub.store import complete_folder, unfinished_folder
from tests.helpers.hub_server import Hub, serving_hub
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.serving.outbound import Outbound
from tests.helpers.studio import StudioClient, studio_client
from tests.helpers.waiting import wait_until

NAME = "Qwen3-0.6B"
PULL = {"name": NAME, "source": "huggingface"}
EVENTS = f"/studio/models/pull/{NAME}/events"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with serving_hub(write_model_folder(tmp_path / "published")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.address)
        yield hub


@pytest.fixture
def studio(tmp_path: Path, hub: Hub) -> Iterator[StudioClient]:
    with studio_client(tmp_path) as client:
        yield client
        client.studio.end()


def ended(studio: StudioClient) -> dict[str, Any]:
    last: dict[str, Any] = studio.events(EVENTS)[-1][1]
    return last


def test_a_pull_tells_how_far_it_is_and_is_listed(studio: StudioClient, hub: Hub) -> None:
    begun = studio.post("/studio/models/pull", json=PULL).json()
    assert begun["state"] == "running"
    assert ended(studio)["state"] == "done"
    verify(complete_folder(NAME))
    events = [event for _number, event in studio.events(EVENTS, seen=1)]
    assert events[-1]["site"] == "Hugging Face"
    assert events[-1]["address"] == hub.address
    assert events[-1]["total"] == sum(map(len, hub.files.values()))
    # A page that comes late gets the whole in one event.
    assert len(studio.events(EVENTS)) == 1
    listing = studio.get("/studio/models").json()
    assert NAME in [model["id"] for model in listing["here"]]


def test_a_pause_keeps_what_came_and_the_next_pull_goes_on(studio: StudioClient, hub: Hub) -> None:
    hub.files["model.safetensors"] += bytes(3 << 20)
    hub.pause_s = 0.01
    studio.post("/studio/models/pull", json=PULL)
    place = unfinished_folder(NAME) / "model.safetensors"
    wait_until(lambda: place.exists() and place.stat().st_size > 100_000)
    # Asked for twice it is the same pull.
    assert studio.post("/studio/models/pull", json=PULL).json()["state"] == "running"
    assert studio.post(f"/studio/models/pull/{NAME}/pause", json={}).json()["state"] == "stopping"
    assert ended(studio)["state"] == "stopped"
    came = place.stat().st_size
    offer = next(o for o in studio.get("/studio/models").json()["catalogue"] if o["name"] == NAME)
    assert offer["partial_bytes"] >= came
    hub.pause_s, hub.asked[:] = 0.0, []
    studio.post("/studio/models/pull", json={"name": NAME.lower(), "source": "modelscope"})
    assert ended(studio)["state"] == "done"
    assert ("model.safetensors", f"bytes={came}-") in hub.asked


def test_what_came_can_be_deleted_but_not_while_it_comes(studio: StudioClient, hub: Hub) -> None:
    hub.files["model.safetensors"] += bytes(3 << 20)
    hub.pause_s = 0.01
    studio.post("/studio/models/pull", json=PULL)
    place = unfinished_folder(NAME) / "model.safetensors"
    wait_until(lambda: place.exists() and place.stat().st_size > 0)
    assert (
        "being pulled"
        in studio.request("DELETE", f"/studio/models/{NAME}", json={}).json()["error"]["message"]
    )
    studio.post(f"/studio/models/pull/{NAME}/pause", json={})
    ended(studio)
    assert studio.request("DELETE", f"/studio/models/{NAME}", json={}).json()["freed_bytes"] > 0
    assert not unfinished_folder(NAME).exists()


def test_faults_say_what_to_do(
    studio: StudioClient, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.listing = b"<html>log in first</html>"
    studio.post("/studio/models/pull", json=PULL)
    failed = ended(studio)
    assert failed["state"] == "failed"
    assert "not the list of files" in failed["message"]
    assert f"danlu pull {NAME}" in failed["fix"]
    hub.listing = None
    monkeypatch.setattr("danlu.hub.catalogue.pulling.free_bytes", lambda _path: 5)
    studio.post("/studio/models/pull", json=PULL)
    assert "does not fit on the disk" in ended(studio)["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"name": "Qwen3-9B"},
        {"name": "http://203.0.113.1/model"},
        {"name": NAME, "source": "http://203.0.113.1"},
        {"name": NAME, "address": "http://203.0.113.1"},
    ],
)
def test_only_published_models_and_known_hubs(
    studio: StudioClient, outbound: Outbound, body: dict[str, str]
) -> None:
    assert studio.post("/studio/models/pull", json=body).status_code == 400
    assert outbound.tried == []


def test_the_end_of_the_server_ends_a_pull(studio: StudioClient, hub: Hub) -> None:
    hub.files["model.safetensors"] += bytes(3 << 20)
    hub.pause_s = 0.01
    studio.post("/studio/models/pull", json=PULL)
    place = unfinished_folder(NAME) / "model.safetensors"
    wait_until(lambda: place.exists() and place.stat().st_size > 0)
    studio.studio.end()
    size = place.stat().st_size
    assert ended(studio)["state"] == "stopped"
    assert place.stat().st_size == size
