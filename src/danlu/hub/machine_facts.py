"""What `danlu info` knows of this machine: device, memory, threads, versions, where things are."""

from __future__ import annotations

import platform
from typing import Any

import torch

import danlu
from danlu.container import num_processors, processor_quota
from danlu.device.detect import passed_over, select
from danlu.environment import set_here, waiting
from danlu.files.home import danlu_home
from danlu.hub.choosing import trouble_line, unused_line
from danlu.hub.names import default_name
from danlu.language import _
from danlu.ops import ops_table
from danlu.ops.native.library import about_kernels
from danlu.units import readable_bytes


def machine_facts() -> dict[str, Any]:
    """Return device, memory and versions; `npu` and `gpu` only where one cannot be used."""
    device, quota, trouble = select(), processor_quota(), passed_over()
    unused = "" if device.has_host else unused_line()
    table = ops_table(device.torch_device)
    return {
        "device": f"{device.kind}: {device.description}",
        **({} if trouble is None else {"npu": trouble_line(trouble)}),
        **({"gpu": unused} if unused else {}),
        "memory": readable_bytes(device.memory_bytes),
        "threads": device.threads,
        "processors": num_processors(),
        "processor_quota": quota,
        "environment": set_here(),
        "waiting": waiting() or _("spinning; asleep beside other programs"),
        "precision": str(device.preferred_dtype).removeprefix("torch."),
        "operations": dict(table.chosen),
        "switched_off": [*table.off, *(table.not_built if device.has_host else ())],
        "kernels": about_kernels(),
        "danlu": danlu.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "home": str(danlu_home()),
        "default_model": default_name(),
    }
