"""A studio in this process, over a home of its own; without a model unless one is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

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


def studio_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: Serving | None = None, **settings: Any
) -> FastAPI:
    """The application of a studio whose DANLU_HOME is `tmp_path`/home."""
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    chosen = WebSettings(**settings)
    state = ServerState.of(chosen, serving)
    studio = Studio(
        server=state,
        sessions=Sessions([], port=6006),
        database=Database(),
        voices=AvailableVoices(state),
        loading=ModelLoading(server=state),
        data=DataFolders.of(chosen.data_dir, chosen.max_upload_bytes),
    )
    app = create_app(state, front=front_of(studio, Keys()))
    attach_studio(app, studio)
    return app


@contextmanager
def studio_client(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serving: Serving | None = None, **settings: Any
) -> Iterator[TestClient]:
    """Ask a studio without a socket; what it has begun goes on between two requests."""
    app = studio_app(tmp_path, monkeypatch, serving, **settings)
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client
    studio: Studio = app.state.studio
    studio.database.close()
