"""Settings of `danlu web`: those of `danlu serve`, with the port that rented machines forward."""

from __future__ import annotations

from typing import Annotated

from danlu.server.settings import ServeSettings
from danlu.settings.ranges import PositiveInt, Range
from danlu.settings.schema import option
from danlu.web.data.data_folders import MOST_UPLOAD_BYTES


class WebSettings(ServeSettings):
    """Open danlu in the browser: chat, data, fine-tuning, comparison and merging."""

    port: Annotated[int, Range(least=0, greatest=65535)] = option(
        6006, "port to listen on; 0: any free one"
    )
    data_dir: str | None = option(None, "folder whose data files the studio shows")
    max_upload_bytes: PositiveInt = option(MOST_UPLOAD_BYTES, "largest file that may be uploaded")
    open_browser: bool = option(
        True, "open the page in this machine's browser, where there is a screen"
    )
    rebuild_index: bool = option(
        False, "make the list of runs anew from their folders, before the page opens"
    )
