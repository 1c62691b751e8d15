"""What danlu asks of a card, one thing after the other: no more than is written down, and no less.

Every test of this folder fails at a kernel that is not listed, and at an unknown place of a copy of
pageable memory, for which the host waits (conftest.py). Here the lists hold nothing else.
"""

from __future__ import annotations

import pytest

from tests.npu.programs import PROGRAMS, record_of
from tests.sim.kernels import KERNELS
from tests.sim.pageable import PLACES
from tests.sim.refusals import base_name

OPTIMIZER = "device/group.py:deal"
FILES = "weights/safetensors.py:_convert"
ON_DISK = {
    f"export/on_disk.py:{name}" for name in ("<genexpr>", "embedded", "logits_on_disk", "output")
}
# Training and answering have none.
KNOWN = {
    "the table of operations": {
        *("ops/choice.py:example", "ops/cache/paged_store.py:step_of", "ops/grouped.py:_trial"),
    },
    "a fresh adapter": {"lora/adapter.py:initialise"},
    "offloading": {"device/memory.py:back_on_device"},
    "resuming LoRA": {OPTIMIZER},
    "resuming full training": {OPTIMIZER},
    "loading": {FILES},
    "loading into int8": {FILES},
    "loading into int4": {FILES},
    "loading an adapter": {FILES},
    "merging": {FILES, *ON_DISK},
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_uploads_pageable_memory_only_where_it_is_known_to(name: str) -> None:
    assert set(record_of(name).pageable) - {"outside"} == KNOWN.get(name, set())


def test_each_known_place_is_one_where_it_happens() -> None:
    assert set().union(*KNOWN.values()) == PLACES.keys()


def test_the_list_of_kernels_holds_no_more_than_is_used() -> None:
    used = {base_name(name) for program in PROGRAMS for name in record_of(program).operations}
    assert all(kernel.assumed <= kernel.dtypes for kernel in KERNELS.values())
    # Only test_device.py waits for these.
    assert KERNELS.keys() - used == {"equal", "_index_put_impl"}
