"""Where danlu copies pageable memory to a card: the host waits there for all that is queued.

That is as it should be only where it happens once, before there is work to wait for. The list can
only shrink: tests/npu fails at a place that is not here, and at one that is here and no longer
happens.
"""

from __future__ import annotations

ONCE = {
    # A merge is asked for the logits of a few tokens; each layer is read from its file for that.
    "device/group.py:deal": "the optimizer's state, read where a run is resumed",
    "export/on_disk.py:<genexpr>": "an adapter's matrices",
    "export/on_disk.py:embedded": "the tokens' embeddings",
    "export/on_disk.py:logits_on_disk": "the tokens' positions",
    "export/on_disk.py:output": "the output matrix, a piece at a time",
    "ops/choice.py:example": "numbers that variants of operations are tried on",
    "ops/grouped.py:_trial": "the same of groups of rows",
    "ops/cache/paged_store.py:step_of": "the same of a cache",
    "lora/adapter.py:initialise": "a fresh adapter, drawn on the host so that all devices agree",
    "weights/safetensors.py:_convert": "weights and adapters, read through a small buffer",
}
ONLY_IN_TESTS = {
    "device/memory.py:back_on_device": "a device written in Python cannot copy into pinned memory",
}
PLACES = {**ONCE, **ONLY_IN_TESTS}
