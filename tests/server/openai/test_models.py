"""/v1/models, and adapters that come and go while the server runs (S8)."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi import FastAPI

from danlu.errors import UsageError
from danlu.files.committed import committed_folder
from danlu.hub.load import LoadedModel
from danlu.hub.prompting import Prompting
from danlu.lora.adapter import LoraConfig
from danlu.lora.peft_files import write_adapter
from danlu.runs.folder import RunFolder
from danlu.runs.manifest import BaseRecord, RunManifest
from danlu.server.edge.gate import serving_of
from danlu.server.served_adapters import AdapterFolders, is_adapter_name
from tests.helpers.models.packed import random_adapter
from tests.helpers.serving.server import (
    JSON,
    Reply,
    ask,
    ask_async,
    post,
    scripted_serving,
    server_app,
)
from tests.helpers.training.trainers import loaded_tiny

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def write(folder: Path, base: LoadedModel, seed: int = 0) -> Path:
    """Write a PEFT folder that fits a base."""
    adapter = random_adapter(LoraConfig(r=4), base.config, seed=seed)
    with committed_folder(folder) as draft:
        write_adapter(draft, adapter, base_model="tiny")
    return folder


@dataclass(frozen=True, kw_only=True)
class Place:
    base: LoadedModel
    folder: Path

    def app(self, **settings: Any) -> FastAPI:
        given = {"adapter_dir": str(self.folder / "shelf"), **settings}
        return server_app(serving=scripted_serving(loaded=self.base), **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("adapters")
    base = loaded_tiny(folder / "model")
    write(folder / "shelf" / "fox", base)
    write(folder / "shelf" / "more" / "owl", base, seed=1)
    write(folder / "named" / "cat", base, seed=2)
    write(folder / "outside", base, seed=3)
    (folder / "shelf" / "link").symlink_to(folder / "outside")
    (folder / "shelf" / "no-adapter").mkdir()
    run = RunManifest(
        state="finished",
        base=BaseRecord(name="tiny", path="/models/tiny", fingerprint="tiny"),
        template="qwen3_nothink",
        enable_thinking=False,
    )
    for name, fingerprint in (("run", "tiny"), ("stranger", "another")):
        with RunFolder.create(folder / "shelf" / name) as held:
            record = BaseRecord(name="tiny", path="/models/tiny", fingerprint=fingerprint)
            held.write(run.changed(base=record))
        write(folder / "shelf" / name / "final", base)
    return Place(base=base, folder=folder)


@pytest.fixture
def place(made: Place, tmp_path: Path) -> Place:
    """A copy that a test may damage."""
    shutil.copytree(made.folder, tmp_path / "copy", symlinks=True)
    return replace(made, folder=tmp_path / "copy")


def load(app: FastAPI, name: str, path: str) -> Reply:
    return post(app, LOAD, {"lora_name": name, "lora_path": path})


def listed(app: FastAPI) -> list[str]:
    return [card["id"] for card in ask(app, "GET", "/v1/models").json()["data"]]


def test_a_name_may_hold_a_slash() -> None:
    serving = scripted_serving()
    serving.name = "Qwen/Qwen3-8B"
    app = server_app(serving=serving)
    assert ask(app, "GET", "/v1/models/Qwen/Qwen3-8B").json()["id"] == "Qwen/Qwen3-8B"
    assert ask(app, "GET", "/v1/models/").status == 404


def test_the_model_and_its_adapters_are_listed(made: Place) -> None:
    app = made.app()
    assert load(app, "fox", "fox").status == 200
    answer = ask(app, "GET", "/v1/models").json()
    assert answer["object"] == "list"
    base, fox = answer["data"]
    assert base["id"] == "tiny"
    assert base["parent"] is None
    assert fox["parent"] == "tiny"
    assert fox["root"] == "shelf/fox"
    assert "/" not in base["root"]
    for card in (base, fox):
        assert card["object"] == "model"
        assert card["owned_by"] == "danlu"
        assert card["max_model_len"] == 4096
        assert card["created"] > 1_700_000_000
        assert ask(app, "GET", f"/v1/models/{card['id']}").json() == card
    answer = ask(app, "GET", "/v1/models/wolf")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    "path", ["fox", "more/owl", "{shelf}/fox", "{shelf}/more/owl/", "run", "run/final"]
)
def test_registered_folders_are_loaded(made: Place, path: str) -> None:
    app = made.app()
    answer = load(app, "new", path.format(shelf=made.folder / "shelf"))
    assert answer.status == 200
    assert listed(app) == ["tiny", "new"]
    assert post(app, UNLOAD, {"lora_name": "new"}).status == 200
    assert listed(app) == ["tiny"]


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "/", "..", "../outside", "fox/../../outside", "{outside}", "link", "{shelf}/link",
        "{shelf}", "no-adapter", "~/fox", "/etc/passwd", "file:///etc", "https://evil.example/fox",
        "{shelf}/fox/../fox", "fox\0", "x" * 5000,
    ],
)  # fmt: skip
def test_nothing_else_is_opened(made: Place, path: str) -> None:
    app = made.app()
    shelf, outside = made.folder / "shelf", made.folder / "outside"
    answer = load(app, "new", path.format(shelf=shelf, outside=outside))
    assert (answer.status, answer.error["param"]) == (400, "lora_path")
    assert listed(app) == ["tiny"]
    # Whether there is such a folder is not told.
    missing = load(app, "new", path.format(shelf=shelf, outside=outside) + "-missing")
    assert missing.body == answer.body


def test_a_named_adapter_can_come_back(made: Place) -> None:
    cat = made.folder / "named" / "cat"
    app = made.app(adapter=(f"cat={cat}",), adapter_dir=None)
    for path in ("cat", str(cat)):
        assert load(app, "cat", path).status == 200
        assert post(app, UNLOAD, {"lora_name": "cat"}).status == 200
    assert load(app, "fox", "fox").status == 400


def test_an_adapter_is_prompted_as_it_was_trained_unless_told_otherwise(made: Place) -> None:
    for settings, expected in (
        ({}, Prompting(template="qwen3_nothink", enable_thinking=False)),
        ({"enable_thinking": True}, Prompting(template="qwen3_nothink", enable_thinking=True)),
    ):
        app = made.app(**settings)
        assert load(app, "run", "run").status == 200
        assert serving_of(app).adapters["run"].prompting == expected


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"lora_name": "tiny", "lora_path": "fox"}, 400, "lora_name"),
        ({"lora_name": "fox", "lora_path": "fox"}, 400, "lora_name"),
        ({"lora_name": "a b", "lora_path": "fox"}, 400, "lora_name"),
        ({"lora_name": "../x", "lora_path": "fox"}, 400, "lora_name"),
        ({"lora_name": "x" * 65, "lora_path": "fox"}, 400, "lora_name"),
        ({"lora_name": "fox\n", "lora_path": "fox"}, 400, "lora_name"),
        ({"lora_path": "fox"}, 400, "lora_name"),
        ({"lora_name": "new"}, 400, "lora_path"),
        ({"lora_name": "new", "lora_path": 5}, 400, "lora_path"),
        ({"lora_name": "new", "lora_path": "fox", "code": "x"}, 400, "code"),
    ],
)
def test_what_cannot_be_loaded(made: Place, body: object, status: int, param: str) -> None:
    app = made.app()
    assert load(app, "fox", "fox").status == 200
    answer = post(app, LOAD, body)
    assert (answer.status, answer.error["param"]) == (status, param)
    assert listed(app) == ["tiny", "fox"]


def test_what_is_not_loaded_cannot_be_unloaded(made: Place) -> None:
    for name in ("wolf", "tiny", ""):
        answer = post(made.app(), UNLOAD, {"lora_name": name, "lora_int_id": 3})
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")


def test_damaged_and_foreign_files_are_refused(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    app = place.app()
    shelf = place.folder / "shelf"
    weights = shelf / "fox" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    config = shelf / "more" / "owl" / "adapter_config.json"
    fields = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**fields, "r": 10**9}), encoding="utf-8")
    for path in ("fox", "more/owl", "stranger"):
        answer = load(app, "new", path)
        assert (answer.status, answer.error["param"]) == (400, "lora_path")
        # Where it lies on the server is in the log only.
        assert "/" not in answer.error["message"].replace(path, "")
        assert str(place.folder) in caplog.text or path == "stranger"
    assert listed(app) == ["tiny"]


def test_numbers_that_are_not_finite_are_refused(place: Place) -> None:
    adapter = random_adapter(LoraConfig(r=4), place.base.config, seed=5)
    last = list(adapter.tensors())[-1]
    last[3][0, 0] = torch.nan
    with committed_folder(place.folder / "shelf" / "diverged") as draft:
        write_adapter(draft, adapter, base_model="tiny")
    answer = load(place.app(), "new", "diverged")
    assert answer.status == 400
    assert "not finite" in answer.error["message"]


@pytest.mark.parametrize("name", ["lora_alpha", "r"])
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_settings_that_are_not_finite_are_refused(place: Place, name: str, value: str) -> None:
    app = place.app()
    config = place.folder / "shelf" / "fox" / "adapter_config.json"
    fields = {**json.loads(config.read_text(encoding="utf-8")), name: "HERE"}
    config.write_text(json.dumps(fields).replace('"HERE"', value), encoding="utf-8")
    answer = load(app, "new", "fox")
    assert (answer.status, answer.error["param"]) == (400, "lora_path")
    assert load(app, "new", "more/owl").status == 200


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(place: Place, name: str, kind: str) -> None:
    """Opening a pipe that nobody writes to would wait forever, and with it all later loads."""
    app = place.app()
    path = place.folder / "shelf" / "fox" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    answer = load(app, "new", "fox")
    assert (answer.status, answer.error["param"]) == (400, "lora_path")
    assert load(app, "new", "more/owl").status == 200


def test_who_uses_an_adapter_keeps_it(made: Place) -> None:
    app = made.app()
    assert load(app, "fox", "fox").status == 200
    held = serving_of(app).adapters["fox"].adapter
    service = serving_of(app).service
    before = [a.clone() for _layer, _name, a, _b in held.tensors()]
    assert post(app, UNLOAD, {"lora_name": "fox"}).status == 200
    assert load(app, "fox", "more/owl").status == 200
    after = [a for _layer, _name, a, _b in held.tensors()]
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert serving_of(app).adapters["fox"].adapter is not held
    assert service.forgotten == [held]


def test_many_at_once_load_one_of_a_name(made: Place) -> None:
    app = made.app()
    body = json.dumps({"lora_name": "fox", "lora_path": "fox"}).encode()

    async def together() -> list[int]:
        answers = await asyncio.gather(
            *(ask_async(app, "POST", LOAD, headers=[JSON], body=body) for _ in range(8))
        )
        return sorted(answer.status for answer in answers)

    assert asyncio.run(together()) == [200] + [400] * 7
    assert listed(app) == ["tiny", "fox"]


@pytest.mark.parametrize(
    "words",
    [
        ["fox it"], ["=path"], ["fox="], ["a b=path"], ["../x=path"], [".x=path"],
        ["fox=a", "fox=b"],
        ["/"], ["a/.x"], ["x" * 65 + "=path"],
    ],
)  # fmt: skip
def test_words_that_name_no_adapter(words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        AdapterFolders.of(words)
    assert "name" in str(caught.value)


def test_a_folder_alone_is_named_by_itself_or_as_the_server_says(tmp_path: Path) -> None:
    word = str(tmp_path / "fox")
    assert AdapterFolders.of([word]).named == {"fox": tmp_path / "fox"}
    assert AdapterFolders.of([word], served_name="gpt").named == {"gpt": tmp_path / "fox"}
    with pytest.raises(UsageError, match="given twice"):
        AdapterFolders.of([word, word])


def test_a_missing_adapter_dir_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        AdapterFolders.of([], str(tmp_path / "missing"))


def test_names() -> None:
    assert all(map(is_adapter_name, ["a", "A-1.b_c", "0" * 64]))
    assert not any(map(is_adapter_name, ["", "-a", ".a", "a/b", "a\n", "é", "0" * 65]))
