"""The picture of the house: imports go downwards only, in no circles, and torch stays in its rooms.

The picture is in ARCHITECTURE.md. Rooms of later issues stand in it already, so that a new room
finds its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.helpers.source import ROOT, Module, danlu_modules, room_of, snippet

# From the roof to the ground. Rooms on one line do not import each other, ARROWS excepted.
LINES = (
    ("__main__",),
    ("cli",),
    ("chat", "web", "server", "doctor"),
    ("workflows",),
    ("dialog",),
    ("train", "engine", "export"),
    ("hub",),
    ("lora", "data", "plan", "runs", "moving_line"),
    ("say",),
    ("model", "weights", "text"),
    ("ops", "device"),
    ("files", "settings"),
    ("errors", "reasons", "units", "language", "starter", "locale"),
    ("program", "interrupts"),
    ("",),  # danlu/__init__.py: the version number
    ("environment",),  # what danlu/__init__.py sets before torch is loaded
    ("container",),
)
ARROWS = {
    ("web", "server"), ("web", "doctor"), ("doctor", "server"), ("ops", "device"),
    ("plan", "data"), ("reasons", "language"), ("units", "language"),
}  # fmt: skip
LEVEL = {room: level for level, line in enumerate(LINES) for room in line}
# Rooms inside rooms, from the roof down. A room's own files (settings, state, findings, datasets)
# are shared by them and stand outside this order.
INNER = {
    "server": ("lifecycle", "openai", "edge"),
    "train": ("job", "loop", "fit"),
    "data": ("doctor", "tokens", "formats", "reading"),
}

ROOMS_WITHOUT_TORCH = {
    "", "container", "environment", "errors", "interrupts", "language", "program", "reasons",
    "starter", "units", "files", "settings", "text", "data", "plan", "runs",
}  # fmt: skip
MODULES_WITHOUT_TORCH = {
    "danlu.model.config", "danlu.model.layout", "danlu.model.recompute", "danlu.model.sizes",
    "danlu.device.cards", "danlu.device.datasheets", "danlu.device.processor",
    "danlu.device.ascend.causes", "danlu.device.ascend.chips", "danlu.device.ascend.machine",
    "danlu.device.ascend.torch_plugin", "danlu.device.ascend.versions", "danlu.device.torch_probe",
    # All of the doctor but its self-test: it looks at machines whose torch cannot be loaded.
    *(f"danlu.doctor.{name}" for name in (
        "ascend_checks", "examination", "machine_checks", "surroundings", "torch_checks",
        "verdicts",
    )),
    "danlu.hub.settings", "danlu.hub.names", "danlu.hub.store", "danlu.hub.catalogue.published",
}  # fmt: skip
TORCH = {"torch", "torch_npu", "transformers", "peft", "accelerate"}


def danlu_imports(module: Module) -> dict[str, int]:
    """Map the danlu modules that are imported to the line; names inside a module are cut off."""
    known = danlu_modules()
    found: dict[str, int] = {}
    for name, line in module.imports.items():
        if name.split(".")[0] == "danlu":
            owner = name
            while owner not in known and "." in owner:
                # A room that is not there yet still counts as itself.
                if owner.count(".") == 1 and owner.split(".")[1] in LEVEL:
                    break
                owner = owner.rpartition(".")[0]
            found.setdefault(owner, line)
    return found


def upward_imports(module: Module) -> list[str]:
    """Say which imports go up or sideways."""
    mine = module.room
    faults = []
    for name, line in danlu_imports(module).items():
        other = room_of(name)
        allowed = mine == other or (mine, other) in ARROWS or LEVEL[mine] < LEVEL[other]
        if not allowed:
            faults.append(f"{module.where}:{line}: {mine or 'danlu'} must not import {other}")
    return faults


def inner_level(name: str) -> int | None:
    """Return the floor inside its room, counted from the roof; None for a room's own files."""
    parts = name.split(".")
    order = INNER.get(room_of(name), ())
    return order.index(parts[2]) if len(parts) > 3 and parts[2] in order else None


def inner_upward_imports(module: Module) -> list[str]:
    """Say which imports go up inside one room."""
    mine = inner_level(module.name)
    return [
        f"{module.where}:{line}: must not import {name}"
        for name, line in danlu_imports(module).items()
        if room_of(name) == module.room
        and mine is not None
        and (other := inner_level(name)) is not None
        and other < mine
    ]


def loads(name: str) -> Iterator[tuple[str, str]]:
    """Give (danlu module, what it imports) for everything that importing `name` may load."""
    known = danlu_modules()
    seen: set[str] = set()
    todo = [name]
    while todo:
        current = todo.pop()
        if current in seen or current not in known:
            continue
        seen.add(current)
        todo.append(current.rpartition(".")[0])  # its package's __init__ runs first
        todo.extend(danlu_imports(known[current]))
        yield from ((current, imported) for imported in known[current].imports)


def test_every_room_is_in_the_picture() -> None:
    strangers = {module.room for module in danlu_modules().values()} - LEVEL.keys()
    assert not strangers, f"give {strangers} a place in LINES and in ARCHITECTURE.md"


def test_architecture_page_names_every_room() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    picture = page.split("```")[1].split()
    words = {word.strip(",:;") for word in picture}
    rooms = {module.room for module in danlu_modules().values()} - {"", "__main__"}
    assert not rooms - words, f"ARCHITECTURE.md's picture lacks {rooms - words}"


def test_imports_go_downwards_only() -> None:
    faults = [fault for module in danlu_modules().values() for fault in upward_imports(module)]
    assert not faults, "\n".join(faults)


def test_imports_go_downwards_inside_a_room() -> None:
    modules = danlu_modules().values()
    faults = [fault for module in modules for fault in inner_upward_imports(module)]
    assert not faults, "\n".join(faults)


def test_a_wrong_import_inside_a_room_is_found() -> None:
    lower = snippet("from danlu.train.job.finetune import Finetune", "danlu.train.loop.example")
    higher = snippet("from danlu.train.loop.step import optimizer_step", "danlu.train.job.example")
    assert inner_upward_imports(lower)
    assert not inner_upward_imports(higher)


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("train", "from danlu.engine.engine import Engine"),
        ("model", "from danlu.text import render"),
        ("files", "import danlu.settings"),
        ("errors", "from danlu import language"),
        ("model", "if TYPE_CHECKING:\n    from danlu.lora.adapter import Adapter"),
        ("files", "def late():\n    from ..cli import main"),
        ("server", "import danlu.web.routes"),
    ],
)
def test_a_wrong_import_is_found(room: str, line: str) -> None:
    assert upward_imports(snippet(line, f"danlu.{room}.example"))


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("web", "from danlu.server import app"),
        ("ops", "from danlu.device.detect import chosen"),
        ("cli", "from danlu import __version__"),
        ("train", "from . import loss"),
    ],
)
def test_a_right_import_passes(room: str, line: str) -> None:
    assert not upward_imports(snippet(line, f"danlu.{room}.example"))


def test_there_are_no_import_cycles() -> None:
    graph = {
        name: danlu_imports(module).keys() - {name} for name, module in danlu_modules().items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as fault:
        pytest.fail(" -> ".join(fault.args[1]))


def test_rooms_without_torch_do_not_load_it() -> None:
    faults = [
        f"{name} loads {imported} through {through}"
        for name, module in danlu_modules().items()
        if module.room in ROOMS_WITHOUT_TORCH or name in MODULES_WITHOUT_TORCH
        for through, imported in loads(name)
        if imported.split(".")[0] in TORCH
    ]
    assert not faults, "\n".join(faults)


def test_modules_without_torch_exist() -> None:
    assert danlu_modules().keys() >= MODULES_WITHOUT_TORCH
