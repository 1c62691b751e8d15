"""A weight file is opened once, however many tensors are read of it, and closed with its reader."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

from danlu.weights import safetensors
from danlu.weights.safetensors import SafetensorsFile, header_bytes, tensor_bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = {f"t{number}": torch.full((3, 4), float(number)) for number in range(20)}
    parts = [header_bytes((name, t.dtype, tuple(t.shape)) for name, t in tensors.items())]
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"".join([*parts, *map(bytes, map(tensor_bytes, tensors.values()))]))
    return file


def open_files(path: Path) -> int:
    """How often this process has a file open."""
    links = Path("/proc/self/fd")
    found = [os.readlink(links / name) for name in os.listdir(links) if (links / name).exists()]
    return found.count(str(path))


def test_a_file_is_opened_for_its_header_and_once_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    real = safetensors.open_regular
    monkeypatch.setattr(
        safetensors, "open_regular", lambda path: (opened.append(path), real(path))[1]
    )
    file = SafetensorsFile(path)
    for number in (3, 0, 19, 7):
        assert torch.equal(file.read(f"t{number}"), torch.full((3, 4), float(number)))
        assert torch.equal(file.rows(f"t{number}", 1, 3), torch.full((2, 4), float(number)))
        half = torch.empty(3, 4, dtype=torch.bfloat16)  # passes through a buffer
        file.read_into(f"t{number}", half)
        assert (half == number).all()
    assert opened == [path, path]


def test_it_is_closed_with_its_reader(path: Path) -> None:
    file = SafetensorsFile(path)
    assert open_files(path) == 0
    file.read("t1")
    assert open_files(path) == 1
    del file
    gc.collect()
    assert open_files(path) == 0
