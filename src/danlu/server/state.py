"""What every route works with: one loaded model, its engine, and the adapters by name."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from danlu.dialog.dialog import Dialog
from danlu.engine.request import SamplingSettings
from danlu.engine.service import EngineService
from danlu.hub.adapters import Prompting
from danlu.hub.load import LoadedModel
from danlu.lora.adapter import Adapter


@dataclass(frozen=True, kw_only=True)
class ServedAdapter:
    """An adapter that requests may name as their model, and how it was trained to be prompted."""

    name: str
    folder: Path
    adapter: Adapter
    prompting: Prompting
    loaded_at: float = field(default_factory=time.time)


@dataclass(kw_only=True)
class Serving:
    """A model that is being served. `adapters` changes only on the event loop.

    name: what requests call the base model. defaults: the model's own sampling settings, with
    thinking and without. context_tokens: the longest prompt and answer together.
    """

    name: str
    loaded: LoadedModel
    dialog: Dialog
    service: EngineService
    prompting: Prompting
    defaults: Mapping[bool, SamplingSettings]
    context_tokens: int
    adapters: dict[str, ServedAdapter] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)
