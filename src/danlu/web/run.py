"""The studio's life: the server's, with the page in front and a model that can be exchanged."""

from __future__ import annotations

import os
import socket
import sys
import threading
import webbrowser

from fastapi import APIRouter, Depends

from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.server.edge.keys import Keys
from danlu.server.edge.logs import log_to_stderr
from danlu.server.front import Front
from danlu.server.lifecycle.listening import url_of
from danlu.server.lifecycle.opening import describe, name_of
from danlu.server.lifecycle.server import Server
from danlu.server.state import ServerState, Serving
from danlu.web.access import Sessions
from danlu.web.available_voices import AvailableVoices
from danlu.web.built_page import check_built, page_router, public_paths
from danlu.web.chats import chat_routes
from danlu.web.chats.kept_chats import KeptChats
from danlu.web.comparing import compare_routes
from danlu.web.data import data_routes
from danlu.web.data.data_folders import DataFolders
from danlu.web.data.uploads import UPLOADS
from danlu.web.database import Database
from danlu.web.merging import merge_routes
from danlu.web.models import model_routes, system_routes
from danlu.web.models.loading import ModelLoading
from danlu.web.page_language import in_page_language
from danlu.web.runs import run_routes
from danlu.web.session_routes import SESSION, session_router
from danlu.web.settings import WebSettings
from danlu.web.studio import Studio, attach_studio
from danlu.web.teaching import teach_routes
from danlu.web.training import training_routes
from danlu.web.training.keep_going import keep_going

ROUTERS = (
    chat_routes.router,
    compare_routes.router,
    data_routes.router,
    teach_routes.router,
    training_routes.router,
    run_routes.router,
    model_routes.router,
    system_routes.router,
    merge_routes.router,
)


def serve_studio(settings: WebSettings, keys: list[str], listener: socket.socket) -> None:
    """Serve the studio until a signal comes. Raises as `serve`, and what the database raises."""
    check_built()
    state = ServerState.of(settings)
    name = name_of(settings, state.adapter_folders)
    data = DataFolders.of(settings.data_dir, settings.max_upload_bytes)
    log_to_stderr()
    database = Database()
    KeptChats(database).cut_off()
    voices = AvailableVoices(state)
    studio = Studio(
        server=state,
        sessions=Sessions(keys, port=listener.getsockname()[1]),
        database=database,
        voices=voices,
        loading=ModelLoading(server=state, forget_voices=voices.forget),
        data=data,
    )
    studio.loading.begins(name)
    if settings.rebuild_index:
        say(_("Runs in the new index: {count}").format(count=studio.runs.rebuild()))
    with MovingLine(_("Loading the model")) as line:
        server = StudioServer(studio, Keys.of(keys), url=url_of(listener), line=line)
        server.opens_browser = settings.open_browser
        line.say(server.address)
        server.run(sockets=[listener])
    studio.end()
    database.close()
    if server.failure is not None:
        raise server.failure


def front_of(studio: Studio, keys: Keys) -> Front:
    """Return the page and its routes, as the server's layers have to know them."""
    spoken = APIRouter(dependencies=[Depends(in_page_language)])
    for router in (session_router(keys), *ROUTERS):
        spoken.include_router(router)
    return Front(
        routers=(page_router(), spoken),
        public_paths=public_paths(),
        prefix="/studio/",
        opening_path=SESSION,
        streamed=frozenset({UPLOADS}),
        session=studio.sessions.holder,
    )


def _has_screen() -> bool:
    """Whether whoever started this sits before a screen on which a browser can open."""
    screens = ("DISPLAY", "WAYLAND_DISPLAY")
    return sys.stdout.isatty() and (sys.platform == "darwin" or any(map(os.environ.get, screens)))


class StudioServer(Server):
    """The server with the studio."""

    opens_browser = False

    def __init__(self, studio: Studio, keys: Keys, *, url: str, line: MovingLine) -> None:
        super().__init__(studio.server, keys, url=url, line=line, front=front_of(studio, keys))
        attach_studio(self.app, studio)
        self._studio = studio
        self.address = f"{url}/?link={studio.sessions.link}" if keys else f"{url}/"

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer on the port, load, show the page where there is a screen; begin the queue."""
        await super().startup(sockets)
        self._studio.begin("queue", keep_going(self._studio.queue))
        if self.opens_browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(self.address,), daemon=True).start()

    def _show(self, what: str, done: int, total: int) -> None:
        super()._show(what, done, total)
        self._studio.loading.shows(what, done, total)

    def _begin(self, serving: Serving) -> None:
        super()._begin(serving)
        self._studio.loading.has(serving)

    def _fail(self, problem: BaseException) -> None:
        """Say on the page why there is no model; another one can be chosen there."""
        if self._studio.server.serving is not None:
            super()._fail(problem)
            return
        self._line.stop()
        self._studio.loading.failed(problem)
        say(str(problem), to=sys.stderr)

    def _ready_lines(self, serving: Serving) -> list[str]:
        return [
            *describe(serving),
            _("Open in the browser: {address}").format(address=self.address),
            _("Ctrl-C stops the server; trainings go on."),
        ]
