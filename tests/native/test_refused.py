"""Libraries that are not taken, and why; danlu goes on with torch's own kernels."""

from __future__ import annotations

import json
import platform
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from danlu import ops
from danlu.hub.machine_facts import machine_facts
from danlu.ops import choice
from danlu.ops.choice import NotBuilt, Operation
from danlu.ops.native import library
from native import build

HERE = platform.machine()
OTHER = {"x86_64": 183, "aarch64": 62}  # elf(5): e_machine of the respective other one


@pytest.fixture
def built() -> bytes:
    """The library of this clone."""
    if not build.is_up_to_date():
        pytest.skip("the kernels are not built: make native")
    return library.FILE.read_bytes()


def cut(share: float) -> Callable[[bytes], bytes]:
    return lambda whole: whole[: int(len(whole) * share)]


def of_another_machine(whole: bytes) -> bytes:
    return whole[:18] + struct.pack("<H", OTHER[HERE]) + whole[20:]


def of_another_name(whole: bytes) -> bytes:
    return whole.replace(b"danlu_version", b"danlu_virsion")


HARMS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (cut(0), "is damaged"),
    "header": (cut(0.0003), "is damaged"),
    "third": (cut(0.3), "is damaged"),
    "nearly whole": (cut(0.999), "is damaged"),
    "a page": (lambda _whole: b"<!DOCTYPE html>" * 100, "is damaged"),
    "machine": (of_another_machine, "cannot be loaded"),
    "no danlu": (of_another_name, "cannot be loaded"),
}
TRY_ALL = """
import sys, pathlib
from danlu.ops.native import library
for file in sys.argv[1:]:
    try: library.Library(pathlib.Path(file))
    except library.NotBuilt as reason: print(reason, flush=True)
    else: print("taken", flush=True)
"""


def test_a_file_that_is_no_library_for_this_machine_is_named(built: bytes, tmp_path: Path) -> None:
    """In a process of its own: a loader that takes such a file may end it."""
    files = []
    for name, (harm, _says) in HARMS.items():
        files.append(tmp_path / f"内核 {name}" / "lib.so")
        files[-1].parent.mkdir()
        files[-1].write_bytes(harm(built))
    command = [sys.executable, "-c", TRY_ALL, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    reasons = done.stdout.splitlines()
    assert done.returncode == 0, f"it ended at {files[len(reasons)]}: {done.stderr}"
    for file, reason, (_harm, says) in zip(files, reasons, HARMS.values(), strict=True):
        assert str(file) in reason
        assert says in reason
        assert reason.endswith("native/build.py")


def test_one_with_another_number_is_refused(built: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "VERSION", library.VERSION + 1)
    with pytest.raises(NotBuilt, match="another version of danlu"):
        library.Library()


@pytest.fixture
def without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A danlu that was installed as a package, without kernels."""
    folder = tmp_path / "site-packages" / "danlu" / "ops" / "native"
    monkeypatch.setattr(library, "FILE", folder / "libdanlu.so")
    monkeypatch.setattr(library, "library", library.Library)
    for operation in choice._OPERATIONS.values():
        monkeypatch.setattr(operation, "_chosen", {})
        monkeypatch.setattr(operation, "off", {})
        monkeypatch.setattr(operation, "not_built", {})


@pytest.mark.usefixtures("without")
def test_the_facts_of_the_machine_say_what_to_type() -> None:
    said = json.loads(json.dumps(machine_facts()))["kernels"]
    assert "not built" in said
    # There is no clone to build in.
    assert said.endswith("-m pip install --force-reinstall --no-deps "
                         "git+https://github.com/danlu-project/danlu")  # fmt: skip
    assert sys.executable in said


@pytest.mark.usefixtures("without")
def test_the_table_says_it_and_the_next_variant_computes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def native(x: torch.Tensor) -> torch.Tensor:
        library.library()
        return x

    monkeypatch.setattr(choice, "_OPERATIONS", {})
    monkeypatch.setattr(
        choice, "preferred_variants", lambda _kind: {"one": ("native",), "two": ("native",)}
    )
    for name in ("one", "two"):
        Operation(
            name,
            {"reference": lambda x: x, "native": native},
            lambda variant, device, dtype: [variant(torch.ones(2, device=device, dtype=dtype))],
        )
    table = ops.ops_table(torch.device("cpu"))
    assert table.chosen == {"one": "reference", "two": "reference"}
    assert table.off == ()
    (reason,) = table.not_built  # once, however many operations miss it
    assert "not built" in reason
    assert "not built" in " ".join(table.describe())
    assert table.warn() == []


def test_the_instruction_set_is_named(built: bytes) -> None:
    known = build.INSTRUCTION_SETS[HERE]
    assert machine_facts()["kernels"] in known
