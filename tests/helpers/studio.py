"""The studio without a process: its application over a scripted engine, and its streams read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from danlu.engine.request import Request as EngineRequest
from danlu.server.edge.keys import Keys
from danlu.server.lifecycle.app import create_app
from danlu.server.state import ServerState, Serving
from danlu.web.access import Sessions
from danlu.web.available_voices import AvailableVoices
from danlu.web.data.data_folders import DataFolders
from danlu.web.database import Database
from danlu.web.models.loading import ModelLoading
from danlu.web.run import front_of
from danlu.web.settings import WebSettings
from danlu.web.studio import Studio, attach_studio
from tests.helpers.models import tiny_engine
from tests.helpers.serving.served import ScriptedEngine, served

Script = Callable[[EngineRequest], str | Exception]


class StudioClient(TestClient):
    """Asks the routes of a studio; `sent` is what the engine was asked."""

    engine: ScriptedEngine
    studio: Studio

    def events(self, path: str, *, seen: int = 0) -> list[tuple[int, Any]]:
        """Follow a stream to its end: (number, event) of all of it."""
        headers = {"last-event-id": str(seen)} if seen else {}
        body = self.get(path, headers=headers).text
        blocks = [block.split("\n") for block in body.split("\n\n") if block.startswith("id: ")]
        assert "event: end\n" in body
        return [
            (int(number.removeprefix("id: ")), json.loads(data.removeprefix("data: ")))
            for number, data in blocks
        ]


def studio_over(
    serving: Serving | None, database: Path, *, keys: Sequence[str] = (), **settings: Any
) -> tuple[Any, Studio]:
    """Make the application of a studio, and its state."""
    chosen = WebSettings(**settings)
    state = ServerState.of(chosen, serving)
    studio = Studio(
        server=state,
        sessions=Sessions(keys, port=6006),
        database=Database(database),
        voices=AvailableVoices(state),
        loading=ModelLoading(server=state),
        data=DataFolders.of(chosen.data_dir, chosen.max_upload_bytes),
    )
    if serving is not None:
        studio.loading.has(serving)
    app = create_app(state, keys=Keys.of(keys), front=front_of(studio, Keys.of(keys)))
    attach_studio(app, studio)
    return app, studio


@contextmanager
def studio_client(
    tmp_path: Path,
    script: Script = lambda _request: "an answer",
    *,
    keys: Sequence[str] = (),
    has_model: bool = True,
    **settings: Any,
) -> Iterator[StudioClient]:
    """Open a studio whose engine answers as told."""
    engine = ScriptedEngine(tiny_engine.tokenizer(), script)
    with served(engine) as serving:
        app, studio = studio_over(
            serving if has_model else None, tmp_path / "studio.db", keys=keys, **settings
        )
        with StudioClient(app, base_url="http://127.0.0.1") as client:
            client.engine, client.studio = engine, studio
            yield client
        studio.database.close()


@contextmanager
def studio_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> Iterator[StudioClient]:
    """Open a studio without a model whose DANLU_HOME is `tmp_path`/home."""
    home = tmp_path / "home"
    monkeypatch.setenv("DANLU_HOME", str(home))
    with studio_client(home, has_model=False, **settings) as client:
        yield client
