"""The published models as this machine sees them: what each needs here, and which are here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from danlu.device.datasheets import DeviceFacts
from danlu.device.facts import budget_bytes, device_facts
from danlu.hub.catalogue.needs import Need, needs
from danlu.hub.catalogue.published import LICENSE, PublishedModel, published_models
from danlu.hub.choosing import chosen_device
from danlu.hub.store import complete_folder, is_stored
from danlu.ops import ops_table


@dataclass(frozen=True, kw_only=True)
class Offers:
    """The catalogue on one device. budget_bytes: of its memory, that this process may use.

    needs: of each model, by what is done with it.
    """

    facts: DeviceFacts
    budget_bytes: int
    needs: Mapping[PublishedModel, Mapping[str, Need]]


def offers(device: str = "auto", *, without_loaded: bool = False) -> Offers:
    """Look at the device, and say what each model needs on it.

    without_loaded: as if this process had loaded nothing yet. Raises what `select` raises.
    """
    chosen = chosen_device(device)
    facts = device_facts(
        chosen, ops_table(chosen.torch_device).chosen, own_process=not without_loaded
    )
    budget = budget_bytes(chosen)
    return Offers(
        facts=facts,
        budget_bytes=budget,
        needs={model: needs(model.config, facts, budget) for model in published_models()},
    )


def offer_record(model: PublishedModel, found: Mapping[str, Need]) -> dict[str, Any]:
    """Write what is known of one model, for programs."""
    here = is_stored(model.name)
    return {
        "name": model.name,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "file_bytes": model.file_bytes,
        "license": LICENSE,
        "huggingface": model.repository,
        "modelscope": model.repository,
        "folder": str(complete_folder(model.name)) if here else None,
        "memory_bytes": {kind: need.num_bytes for kind, need in found.items()},
        "fits": {kind: need.fits for kind, need in found.items()},
    }
