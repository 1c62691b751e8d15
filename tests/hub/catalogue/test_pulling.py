"""Pulling from a hub here that cuts, corrupts, ignores ranges, changes files and throttles."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.errors import CapacityError, EnvironmentFault, UsageError
from danlu.files import download
from danlu.files.committed import verify
from danlu.files.lock import FolderLock
from danlu.hub.catalogue import pulling
from danlu.hub.catalogue.published import PublishedModel, find_published
from danlu.hub.catalogue.pulling import PulledAgain, PullEvent, PullProgress, pull
from danlu.hub.catalogue.sites import HuggingFace, ModelScope, Site, sites_of
from danlu.hub.load import check_model
from danlu.hub.store import is_stored, stored_models, unfinished_folder
from tests.helpers.hub_server import Hub, serving_hub
from tests.helpers.models.model_folder import write_model_folder

SITES = {"huggingface": HuggingFace, "modelscope": ModelScope}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("published") / "model")


@pytest.fixture
def hub(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    with serving_hub(published) as hub:
        yield hub


@pytest.fixture
def model() -> PublishedModel:
    found = find_published("Qwen3-0.6B")
    assert found is not None
    return found


def pulled(model: PublishedModel, *sites: Site) -> tuple[list[PullEvent], Path]:
    """Pull to the end; return the events and the folder."""
    events: list[PullEvent] = []
    pulls = pull(model, sites)
    while True:
        try:
            events.append(next(pulls))
        except StopIteration as end:
            return events, end.value


@pytest.mark.parametrize("source", SITES)
def test_a_pulled_model_is_complete_verified_and_loads(
    source: str, hub: Hub, model: PublishedModel
) -> None:
    hub.files |= {".gitattributes": b"x", "figure.png": b"x", "model.gguf": b"x"}
    events, folder = pulled(model, SITES[source](hub.address))
    names = set(verify(folder))
    assert names == set(hub.files) - {".gitattributes", "figure.png", "model.gguf"}
    assert {file.name for file in folder.iterdir()} == {*names, "manifest.json"}
    check_model(str(folder))
    assert [stored.name for stored in stored_models()] == ["Qwen3-0.6B"]
    done = [e.done for e in events if isinstance(e, PullProgress) and e.stage == "download"]
    assert done == sorted(done)
    assert done[-1] == sum(len(hub.files[name]) for name in names)


@pytest.mark.parametrize("source", SITES)
def test_a_line_that_is_cut_is_gone_on_with(source: str, hub: Hub, model: PublishedModel) -> None:
    hub.cut_after = 20_000
    _events, folder = pulled(model, SITES[source](hub.address))
    verify(folder)
    weights = [wanted for name, wanted in hub.asked if name == "model.safetensors"]
    assert len(weights) == -(-len(hub.files["model.safetensors"]) // 20_000) > 2
    assert weights[:3] == ["", "bytes=20000-", "bytes=40000-"]


def test_another_process_goes_on_with_what_one_left(hub: Hub, model: PublishedModel) -> None:
    pulls = pull(model, [HuggingFace(hub.address)])
    weights = len(hub.files["model.safetensors"])
    hub.cut_after = weights // 2
    for event in pulls:
        if isinstance(event, PullProgress) and event.file == "model.safetensors":
            break
    pulls.close()  # as Ctrl-C does
    assert not is_stored(model.name)
    assert not stored_models()[0].is_complete
    have = (unfinished_folder(model.name) / "model.safetensors").stat().st_size
    assert 0 < have < weights
    hub.cut_after, hub.asked = None, []
    # The content is the same on the other hub: it goes on with it.
    _events, folder = pulled(model, ModelScope(hub.address))
    verify(folder)
    assert hub.asked.count(("model.safetensors", f"bytes={have}-")) == 1
    assert len([name for name, _wanted in hub.asked if name == "model.safetensors"]) == 1


@pytest.mark.parametrize("fault", ["ignores_ranges", "wrong_ranges"])
def test_a_server_that_ignores_ranges_does_not_spoil_the_file(
    fault: str, hub: Hub, model: PublishedModel
) -> None:
    hub.cut_after = 20_000
    setattr(hub, fault, True)
    with pytest.raises(EnvironmentFault):  # it sends the same beginning again and again
        pulled(model, HuggingFace(hub.address))
    hub.cut_after = None
    _events, folder = pulled(model, HuggingFace(hub.address))
    verify(folder)


def test_a_corrupt_file_is_downloaded_again(hub: Hub, model: PublishedModel) -> None:
    hub.corrupt = {"model.safetensors": 1, "config.json": 1}
    events, folder = pulled(model, HuggingFace(hub.address))
    verify(folder)
    again = {event.file for event in events if isinstance(event, PulledAgain)}
    assert again == {"model.safetensors", "config.json"}


@pytest.mark.parametrize("source", SITES)
def test_a_file_that_stays_corrupt_is_never_shown(
    source: str, hub: Hub, model: PublishedModel
) -> None:
    hub.corrupt = {"model.safetensors": 99}
    with pytest.raises(EnvironmentFault) as fault:
        pulled(model, SITES[source](hub.address))
    assert "model.safetensors" in fault.value.why
    assert not is_stored(model.name)
    # What was good stays.
    hub.corrupt, hub.asked = {}, []
    _events, folder = pulled(model, SITES[source](hub.address))
    verify(folder)
    assert "config.json" not in {name for name, _wanted in hub.asked}


@pytest.mark.parametrize("source", SITES)
def test_a_model_that_changes_midway_ends_as_the_newer_one(
    source: str, hub: Hub, model: PublishedModel
) -> None:
    hub.cut_after = 20_000
    old = hub.files["model.safetensors"]
    new = old[:-8] + bytes(8)
    hub.becomes = {"model.safetensors": new}
    _events, folder = pulled(model, SITES[source](hub.address))
    verify(folder)
    assert (folder / "model.safetensors").read_bytes() == new


def test_a_file_of_another_length_is_not_joined_to_the_old_one(
    hub: Hub, model: PublishedModel
) -> None:
    hub.cut_after = 20_000
    hub.becomes = {"model.safetensors": hub.files["model.safetensors"][:30_000]}
    _events, folder = pulled(model, ModelScope(hub.address))
    verify(folder)
    assert (folder / "model.safetensors").stat().st_size == 30_000


def test_a_busy_and_slow_hub_is_waited_for(hub: Hub, model: PublishedModel) -> None:
    hub.busy, hub.pause_s = 3, 0.002
    _events, folder = pulled(model, HuggingFace(hub.address))
    verify(folder)


def test_a_hub_that_stays_busy_is_left_with_what_came(hub: Hub, model: PublishedModel) -> None:
    hub.busy = 99
    with pytest.raises(EnvironmentFault) as fault:
        pulled(model, HuggingFace(hub.address))
    assert "503" in fault.value.why


def test_without_network_the_next_hub_is_asked_and_else_what_is_here_is_said(
    hub: Hub, model: PublishedModel
) -> None:
    nobody = HuggingFace("http://127.0.0.1:9")
    _events, folder = pulled(model, nobody, ModelScope(hub.address))
    verify(folder)
    other = find_published("Qwen3-1.7B")
    assert other is not None
    with pytest.raises(EnvironmentFault) as fault:
        pulled(other, nobody)
    assert "http://127.0.0.1:9" in fault.value.why
    assert "starter, Qwen3-0.6B" in fault.value.fix


@pytest.mark.parametrize(
    "answer", [b"<html>Please log in</html>", b"[]", b'{"sha": "x", "siblings": [{}]}', b"{}"]
)
def test_a_login_page_is_no_listing(answer: bytes, hub: Hub, model: PublishedModel) -> None:
    hub.listing = answer
    for site in (HuggingFace(hub.address), ModelScope(hub.address)):
        with pytest.raises(EnvironmentFault):
            pulled(model, site)
    assert stored_models() == []


def test_names_from_outside_stay_inside(hub: Hub, model: PublishedModel, tmp_path: Path) -> None:
    hub.files |= {"../evil.json": b"{}", "/evil.json": b"{}", "a/evil.json": b"{}"}
    _events, folder = pulled(model, ModelScope(hub.address))
    assert not list(tmp_path.rglob("*evil*"))
    verify(folder)


def test_space_is_checked_first(
    hub: Hub, model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "free_bytes", lambda _path: 10_000)
    with pytest.raises(CapacityError) as fault:
        pulled(model, HuggingFace(hub.address))
    assert "DANLU_HOME" in fault.value.fix
    assert hub.asked == []


def test_two_pulls_of_one_model_do_not_write_into_each_other(
    hub: Hub, model: PublishedModel
) -> None:
    folder = unfinished_folder(model.name)
    folder.mkdir(parents=True)
    with FolderLock(folder), pytest.raises(UsageError):
        pulled(model, HuggingFace(hub.address))


@pytest.mark.parametrize(
    ("environment", "first", "address"),
    [
        ({}, "huggingface", "https://huggingface.co"),
        ({"DANLU_LANG": "zh"}, "modelscope", "https://www.modelscope.cn"),
        ({"DANLU_LANG": "zh", "HF_ENDPOINT": "https://m.cn/"}, "huggingface", "https://m.cn"),
        ({"MODELSCOPE_DOMAIN": "www.modelscope.ai"}, "modelscope", "https://www.modelscope.ai"),
        ({"MODELSCOPE_ENDPOINT": "http://h:1"}, "modelscope", "http://h:1"),
        ({"USE_MODELSCOPE_HUB": "1"}, "modelscope", "https://www.modelscope.cn"),
    ],
)
def test_which_hub_comes_first(
    environment: dict[str, str], first: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_ENDPOINT", "MODELSCOPE_DOMAIN", "MODELSCOPE_ENDPOINT", "USE_MODELSCOPE_HUB"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DANLU_LANG", "en")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    sites = sites_of("auto")
    assert sites[0].source == first
    assert len(sites) == 2
    assert sites[0].address == address
    assert [site.source for site in sites_of("huggingface")] == ["huggingface"]


def test_an_endpoint_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "file:///etc")
    with pytest.raises(UsageError):
        sites_of("huggingface")


def test_the_stand_in_is_what_the_library_speaks_to(hub: Hub, tmp_path: Path) -> None:
    """Hugging Face's own library downloads the same bytes from it."""
    library = pytest.importorskip("huggingface_hub")
    info = library.HfApi(endpoint=hub.address).model_info("Qwen/Qwen3-0.6B", files_metadata=True)
    digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}
    name = "model.safetensors"
    assert digests[name] == hashlib.sha256(hub.files[name]).hexdigest()
    path = library.hf_hub_download(
        "Qwen/Qwen3-0.6B", name, endpoint=hub.address, cache_dir=tmp_path / "cache"
    )
    assert Path(path).read_bytes() == hub.files[name]
    shutil.rmtree(tmp_path / "cache")
