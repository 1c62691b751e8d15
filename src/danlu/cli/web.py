"""`danlu web`: the studio in the browser, until Ctrl-C."""

from __future__ import annotations

from collections.abc import Sequence

from danlu.errors import EXIT_OK
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.settings.show import read_settings


def run(argv: Sequence[str]) -> int:
    """Take the port, then load what is heavy."""
    from danlu.server.lifecycle.listening import listen
    from danlu.web.access import studio_keys
    from danlu.web.built_page import check_built
    from danlu.web.settings import WebSettings

    settings = read_settings(WebSettings, "web", argv).values
    check_built()
    keys = studio_keys(settings)
    with listen(settings.host, settings.port) as listener:
        with MovingLine(_("Loading the model")):
            from danlu.cli.serve import with_adapter
            from danlu.web.run import serve_studio

            settings = with_adapter(settings)
        serve_studio(settings, keys, listener)
    return EXIT_OK
