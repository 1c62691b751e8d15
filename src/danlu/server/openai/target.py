"""What a request's `model` names: the model that is served, or one of its adapters."""

from __future__ import annotations

from dataclasses import dataclass

from danlu.hub.adapters import Prompting
from danlu.language import _
from danlu.lora.adapter import Adapter
from danlu.server.edge.errors import ApiError
from danlu.server.state import Serving

_MOST_NAMES = 20


@dataclass(frozen=True, kw_only=True)
class Target:
    """Who answers, and how it was trained to be prompted. adapter None: the plain model."""

    name: str
    prompting: Prompting
    adapter: Adapter | None = None


def target_of(serving: Serving, name: str | None) -> Target:
    """Find who is meant; None is the plain model. Raises ApiError, naming who is there."""
    if name is None or name == serving.name:
        return Target(name=serving.name, prompting=serving.prompting)
    served = serving.adapters.get(name)
    if served is not None:
        return Target(name=name, prompting=served.prompting, adapter=served.adapter)
    names = [serving.name, *sorted(serving.adapters)]
    listed = ", ".join(names[:_MOST_NAMES]) + (" ..." if len(names) > _MOST_NAMES else "")
    raise ApiError(
        404,
        _("There is no such model here. These are served: {names}.").format(names=listed),
        code="model_not_found",
        param="model",
    )
