"""What a merge would do: what into what, how large, where, and what it needs of the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.device.detect import Device, select
from danlu.device.memory import free_bytes as free_memory
from danlu.dialog.assistant import prompting_line
from danlu.errors import DanluError
from danlu.export.merge import Ingredient, common_prompting, merge_memory_bytes
from danlu.files.os_errors import free_bytes, require_free
from danlu.hub.adapters import (
    AdapterSource,
    base_of,
    find_adapter,
    unfinished_remark,
    unproven_remark,
)
from danlu.hub.names import model_folder
from danlu.model.config import load_config
from danlu.runs.checkpoints import FINAL, list_checkpoints
from danlu.runs.registry import registered_runs, run_id
from danlu.server.state import Serving
from danlu.web.available_voices import adapter_folder
from danlu.web.models.model_list import check_new_name
from danlu.weights.sharded import WeightFolder

Json = dict[str, Any]
# Beside the weights: tokenizer, configuration, the report.
_COMPANIONS = 32 * 2**20


def merge_targets(serving: Serving | None) -> Iterator[Json]:
    """Yield what can be merged: the loaded adapters, and every run that has one."""
    for name in serving.adapters if serving else ():
        base = serving.name if serving else ""
        yield {"voice": name, "name": name, "base": base, "state": "", "checkpoints": []}
    runs = [(folder, run) for folder, run in registered_runs() if run.kind == "lora"]
    for folder, run in sorted(runs, key=lambda each: each[1].started, reverse=True):
        steps = [checkpoint.step for checkpoint in list_checkpoints(folder)]
        if steps or (folder / FINAL).is_dir():
            yield {
                "voice": f"run:{run_id(folder)}",
                "name": folder.name,
                "base": run.base.name,
                "state": run.state,
                "checkpoints": steps,
            }


@dataclass(frozen=True, kw_only=True)
class MergePlan:
    """What one merge would do. num_bytes: of the result; device: where it is verified."""

    name: str
    source: AdapterSource
    base: str
    folder: Path
    num_bytes: int
    memory_bytes: int
    device: Device

    @property
    def ingredients(self) -> list[Ingredient]:
        """What is merged into the base."""
        return [Ingredient(source=self.source)]

    def check_space(self) -> None:
        """Raise CapacityError where the disk does not hold the result."""
        require_free(self.folder, self.num_bytes + _COMPANIONS)

    def fields(self) -> Json:
        """Write it for a page."""
        prompting = common_prompting(self.ingredients, self.base)
        remarks = [unfinished_remark(self.source)]
        if self.source.run is None:
            remarks.append(unproven_remark([self.source], self.base))
        free = free_bytes(self.folder)
        return {
            "name": self.name,
            "base": self.base,
            "adapter": str(self.source.folder),
            "folder": str(self.folder),
            "num_bytes": self.num_bytes,
            "free_bytes": free,
            "has_room": free >= self.num_bytes + _COMPANIONS,
            "memory_bytes": self.memory_bytes,
            "free_memory_bytes": _free(self.device),
            "device": self.device.description,
            "has_memory": self.memory_bytes <= _free(self.device),
            "prompting": prompting_line(prompting),
            "remarks": [remark for remark in remarks if remark],
        }


def plan_merge(
    voice: str, name: str, serving: Serving | None, *, device: str = "auto"
) -> MergePlan:
    """Look at what would be merged. Raises UsageError and DataError where it cannot be."""
    folder = check_new_name(name)
    served = serving.adapters.get(voice) if serving else None
    source = find_adapter(str(served.folder if served else adapter_folder(voice)))
    base = base_of(source)
    base_folder = model_folder(base)
    config = load_config(base_folder)
    memory = merge_memory_bytes(config)
    chosen = select(device)
    if _free(chosen) < memory and chosen.has_host:
        # The loaded model has the device's memory: the host verifies as well, only slower.
        chosen = select("cpu")
    return MergePlan(
        name=name,
        source=source,
        base=base,
        folder=folder,
        num_bytes=WeightFolder(base_folder).num_bytes,
        memory_bytes=memory,
        device=chosen,
    )


def suggested_name(voice_name: str) -> str:
    """Propose a name that is free, made of a run's or an adapter's."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in voice_name)
    stem = plain.strip("-._")[:48] or "my-model"
    for number in range(1, 10_000):
        name = f"{stem}-merged" if number == 1 else f"{stem}-merged-{number}"
        try:
            check_new_name(name)
        except DanluError:
            continue
        return name
    raise AssertionError("ten thousand models of one name")


def _free(device: Device) -> int:
    return free_memory(device.torch_device)
