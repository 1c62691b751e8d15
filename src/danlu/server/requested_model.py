"""Which model or adapter a request names, and how it wants to be prompted."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.hub.prompting import Prompting
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.server.edge.http_errors import ApiError
from danlu.server.state import Serving

_MOST_NAMES = 20


@dataclass(frozen=True, kw_only=True)
class RequestedModel:
    """Who answers, and how it was trained to be prompted. adapter None: the plain model."""

    name: str
    prompting: Prompting
    adapter: Adapter | None = None


def requested_model(serving: Serving, name: str | None) -> RequestedModel:
    """Find what a request's `model` names; None is the plain model. Raises ApiError."""
    if name is None or name == serving.name:
        return RequestedModel(name=serving.name, prompting=serving.assistant.prompting)
    served = serving.adapters.get(name)
    if served is not None:
        return RequestedModel(name=name, prompting=served.prompting, adapter=served.adapter)
    names = [serving.name, *sorted(serving.adapters)]
    listed = ", ".join(names[:_MOST_NAMES]) + (" ..." if len(names) > _MOST_NAMES else "")
    raise ApiError(
        404,
        _("There is no such model here. These are served: {names}.").format(names=listed),
        code="model_not_found",
        param="model",
    )
