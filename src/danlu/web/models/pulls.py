"""Pulling a model for a page: beginning, pausing, going on, and how far it is.

The only thing of the studio that connects to another machine, and only when the user asks for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from danlu.hub.catalogue.published import PublishedModel
from danlu.hub.catalogue.pulling import PullAsks, PullBegun, PulledAgain, pull
from danlu.hub.catalogue.sites import Site
from danlu.web.background import Background

Json = dict[str, Any]
# Smaller files are verified before anyone could read a line about it.
_SHOWN_FROM = 64 << 20


class Pulls:
    """The pulls of this server, the running ones and the ended."""

    def __init__(self) -> None:
        self._pulls: dict[str, Background] = {}

    def of(self, name: str) -> Background | None:
        """Return the last pull of a model."""
        return self._pulls.get(name)

    def all(self) -> Sequence[Background]:
        """Return the last pull of each model."""
        return tuple(self._pulls.values())

    def begin(self, model: PublishedModel, sites: Sequence[Site]) -> Background:
        """Begin to pull a model, or go on with it; one that runs stays as it is."""
        known = self._pulls.get(model.name)
        if known is not None and not known.is_over:
            return known
        work = self._pulls[model.name] = Background({"name": model.name, "stage": "asking"})
        work.begin(lambda background: _pull(model, sites, background))
        return work


def _pull(model: PublishedModel, sites: Sequence[Site], work: Background) -> Json:
    # Closed at once where it is stopped: that lets go of the folder's lock.
    with closing(pull(model, sites)) as events:
        for event in events:
            if isinstance(event, PullAsks):
                work.tell(stage="asking", site=event.site.name, address=event.site.address)
            elif isinstance(event, PullBegun):
                work.tell(
                    stage="download",
                    site=event.site.name,
                    address=event.site.address,
                    num_files=event.num_files,
                    done=event.present_bytes,
                    total=event.num_bytes,
                )
            elif isinstance(event, PulledAgain):
                work.tell(again=event.file)
            elif event.stage == "download":
                work.show("download", event.done, event.total)
            elif event.total > _SHOWN_FROM:
                work.show("verify", event.done, event.total)
    return {"stage": "done"}
