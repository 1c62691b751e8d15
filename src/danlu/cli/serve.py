"""`danlu serve`: serve a model to programs that speak OpenAI's API, until Ctrl-C."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from danlu.errors import EXIT_OK, UsageError
from danlu.language import _
from danlu.moving_line import MovingLine
from danlu.say import say
from danlu.settings.option_names import COMMAND_LINE, DEFAULT
from danlu.settings.show import read_settings

if TYPE_CHECKING:
    from danlu.server.settings import ServeSettings

_Settings = TypeVar("_Settings", bound="ServeSettings")


def run(argv: Sequence[str]) -> int:
    """Take the port, then load what is heavy."""
    from danlu.server.edge.keys import Keys, key_texts
    from danlu.server.settings import ServeSettings

    words, further = _apart(argv)
    resolved = read_settings(ServeSettings, "serve", words)
    with MovingLine(_("Loading the model")):
        settings = with_adapter(resolved.values)
    origins = resolved.origins
    keys = key_texts(settings)
    if origins["api_key"] == COMMAND_LINE:
        say(
            _("All users of this machine see a key on the command line; use --api_key_file."),
            to=sys.stderr,
        )
    if settings.engine == "vllm":
        from danlu.server.lifecycle.handover import become_vllm

        given = {name for name, origin in origins.items() if origin != DEFAULT}
        become_vllm(settings, given, keys, further)
    if further:
        raise UsageError(
            _("The word {word} has no meaning here.").format(word=repr(further[0])),
            why=_("Behind -- stand options of vLLM, and danlu's own engine answers."),
            fix=_("Add --engine vllm before the --, or leave out what stands behind it."),
        )
    if settings.tensor_parallel_size > 1 or settings.pipeline_parallel_size > 1:
        raise UsageError(
            _("danlu's own engine computes on one device."),
            why=_("Several are asked for."),
            fix=_("Add --engine vllm, which needs vLLM to be installed."),
        )
    from danlu.server.lifecycle.listening import listen

    with listen(settings.host, settings.port) as listener:
        with MovingLine(_("Loading the model")):
            from danlu.server.lifecycle.server import serve

        serve(settings, Keys.of(keys), listener)
    return EXIT_OK


def _apart(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take apart what danlu reads, and behind `--` what vLLM does."""
    words = list(argv)
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def with_adapter(settings: _Settings) -> _Settings:
    """Take a run or an adapter that is named as the model for what it is."""
    from danlu.hub.adapters import place_of, taken_apart

    model, adapter = taken_apart(settings.model_name_or_path, None)
    words = settings.adapter if adapter is None else (adapter, *settings.adapter)
    named = (word.rpartition("=") for word in words)
    adapters = tuple(f"{name}{equals}{place_of(path)}" for name, equals, path in named)
    return settings.model_copy(update={"model_name_or_path": model, "adapter": adapters})
