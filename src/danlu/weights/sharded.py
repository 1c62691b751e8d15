"""A folder of safetensors files: one model's weights, whole or in shards with an index.

Reading fills tensors that the caller has laid out; this room never learns what they mean. The
index (Hugging Face's `model.safetensors.index.json`) is a hint for people: what counts is which
tensors the files hold.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from danlu.errors import DataError, UsageError
from danlu.files.draft import Draft
from danlu.files.json_file import read_json_file
from danlu.language import _
from danlu.weights.safetensors import (
    SafetensorsFile,
    damaged,
    header_bytes,
    tensor_bytes,
)

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
# Called with the bytes that have been read, and with all there are.
BytesRead = Callable[[int, int], None]
# Hugging Face's default shard size since transformers 4.35.
SHARD_BYTES = 5 * 10**9


class WeightFolder:
    """The checked headers of all weight files in a folder. Opening reads no tensor data.

    aliases: names that may also be present if they equal the tensor they stand for, such as a
    stored `lm_head.weight` of a model with tied embeddings.
    """

    def __init__(self, folder: Path, aliases: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.aliases = aliases or {}
        self.files: dict[str, SafetensorsFile] = {}
        for path in _weight_files(folder):
            file = SafetensorsFile(path)
            for name in file.tensors:
                if name in self.files:
                    raise damaged(
                        path,
                        _("{name} is also in {file}").format(
                            name=name, file=self.files[name].path.name
                        ),
                    )
                self.files[name] = file

    def divide(
        self, name: str, shape: tuple[int, ...], parts: Sequence[tuple[str, tuple[int, ...]]]
    ) -> None:
        """Take a tensor, if it is there, for those that fill it one behind the other.

        Raises DataError where it has another shape.
        """
        file = self.files.pop(name, None)
        if file is not None:
            file.divide(name, shape, parts)
            self.files.update((part, file) for part, _shape in parts)

    @property
    def num_bytes(self) -> int:
        """Total size of the tensors' data."""
        return sum(
            file.tensors[name].stop - file.tensors[name].start for name, file in self.files.items()
        )

    def check(self, wanted: Mapping[str, Tensor]) -> None:
        """Compare names, shapes and dtypes with wanted tensors (meta tensors will do).

        Raises DataError naming the file and the tensor that is missing, surplus, or of another
        shape or dtype.
        """
        missing = [name for name in wanted if name not in self.files]
        if missing:
            raise self._mismatch(
                _("{count} tensors are missing, the first is {name}.").format(
                    count=len(missing), name=missing[0]
                )
            )
        for name, file in self.files.items():
            if name in wanted:
                file.check_fits(name, wanted[name])
            elif name not in self.aliases:
                raise self._mismatch(
                    _("{file} holds {name}, which this model does not have.").format(
                        file=file.path.name, name=name
                    )
                )

    def load(
        self, wanted: Mapping[str, Tensor], progress: BytesRead = lambda _done, _total: None
    ) -> None:
        """Fill every wanted tensor; the folder must hold these and nothing else.

        Raises DataError as `check` does, before the first byte is read: reading may take minutes.
        """
        self.check(wanted)
        read_into = self.reader(progress)
        for name, destination in wanted.items():
            read_into(name, destination)

    def reader(self, progress: BytesRead) -> Callable[[str, Tensor], None]:
        """Return `read_into` that tells how many bytes of the folder it has read so far."""
        done, total = 0, self.num_bytes
        progress(0, total)

        def read_into(name: str, destination: Tensor) -> None:
            nonlocal done
            self.read_into(name, destination)
            stored = self.files[name].tensors[name]
            done = min(done + stored.stop - stored.start, total)
            progress(done, total)

        return read_into

    def row_reader(self, progress: BytesRead, total: int) -> Callable[[str, int, int], Tensor]:
        """Return `rows` that tells how many bytes of `total` it has read so far."""
        done = 0
        progress(0, total)

        def rows(name: str, start: int, stop: int) -> Tensor:
            nonlocal done
            found = self.rows(name, start, stop)
            done = min(done + found.nbytes, total)
            progress(done, total)
            return found

        return rows

    def read_into(self, name: str, destination: Tensor) -> None:
        """Fill one tensor of a folder that has passed `check`, and compare its aliases with it."""
        self.files[name].read_into(name, destination)
        for alias, original in self.aliases.items():
            if original == name and alias in self.files:
                self._check_equal(self.files[alias], alias, destination)

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows [start, stop) of a tensor in its stored dtype, compared with its aliases."""
        rows = self.files[name].rows(name, start, stop)
        for alias, original in self.aliases.items():
            if original == name and alias in self.files:
                copy = self.files[alias].rows(alias, start, stop)
                self._check_same(self.files[alias], alias, copy.to(rows.dtype), rows)
        return rows

    def _check_equal(self, file: SafetensorsFile, name: str, original: Tensor) -> None:
        copy = torch.empty_like(original)
        file.read_into(name, copy)
        self._check_same(file, name, copy, original)

    def _check_same(self, file: SafetensorsFile, name: str, copy: Tensor, original: Tensor) -> None:
        if not torch.equal(copy, original):
            raise self._mismatch(
                _("{name} in {file} differs from the embedding it is tied to.").format(
                    name=name, file=file.path.name
                )
            )

    def _mismatch(self, why: str) -> DataError:
        return DataError(
            _("The weights in {folder} do not match its config.json.").format(folder=self.folder),
            why=why,
            fix=_("Download the model again, or use the config.json that belongs to the weights."),
        )


_LONGEST_NAME = 255  # NAME_MAX, in bytes
_SHARD = re.compile(r"model-\d{5}-of-(\d{5})\.safetensors")


def _weight_files(folder: Path) -> list[Path]:
    """List the files that hold the weights, by Hugging Face's order of preference.

    The single file, else those the index names; without either, every safetensors file.
    """
    if (folder / SINGLE_FILE).exists():
        return [folder / SINGLE_FILE]
    if (folder / INDEX_FILE).exists():
        return _indexed(folder / INDEX_FILE)
    # A checkpoint's optimizer state is a safetensors file as well.
    paths = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not paths:
        raise UsageError(
            _("{folder} holds no weights.").format(folder=folder),
            why=_("There is no *.safetensors file in it."),
            fix=_("Download the model again; files in another format must be converted first."),
        )
    shard = _SHARD.fullmatch(paths[0].name)
    if shard and len(paths) != int(shard.group(1)):
        raise damaged(
            folder / INDEX_FILE,
            _("only {count} of {total} shards exist").format(
                count=len(paths), total=int(shard.group(1))
            ),
        )
    return paths


def _indexed(index: Path) -> list[Path]:
    """List the files that an index names. Raises DataError where it is damaged or one is absent."""
    file = read_json_file(index, fix=_("Download or copy this file again."))
    weight_map = file.fields.get("weight_map")
    if not isinstance(weight_map, dict):
        raise file.broken(_("The field {name} is missing.").format(name="weight_map"))
    names = set(weight_map.values()) if all(map(_is_file_name, weight_map.values())) else set()
    if not names:
        raise file.broken(_("weight_map holds something else than names of files beside it"))
    paths = [index.parent / name for name in sorted(names)]
    for path in paths:
        if not path.exists():
            raise damaged(path, _("The index names this file, but it is missing."))
    return paths


def _is_file_name(value: object) -> bool:
    """Tell whether a value is a name that a file beside the index may have, and be shown by."""
    if not isinstance(value, str) or value in ("", ".", "..") or "/" in value:
        return False
    if not value.isprintable():  # NUL, half a character, or a newline in the midst of an error
        return False
    return len(os.fsencode(value)) <= _LONGEST_NAME


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """A tensor to be saved: name, dtype and shape are known before its values are fetched."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the tensor's data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


# Gives a tensor by its name: as it is, or in pieces, one behind the other.
Fetch = Callable[[str], Tensor | Iterator[Tensor]]


def in_order(
    plans: Sequence[TensorPlan], pieces: Iterator[Tensor]
) -> Callable[[str], Iterator[Tensor]]:
    """Return a fetch of tensors that arrive in the order of the plans, each in some pieces."""
    numbers = {plan.name: torch.Size(plan.shape).numel() for plan in plans}

    def fetch(name: str) -> Iterator[Tensor]:
        left = numbers[name]
        while left > 0:
            piece = next(pieces)
            left -= piece.numel()
            yield piece

    return fetch


def write_tensors(draft: Draft, file_name: str, plans: Sequence[TensorPlan], fetch: Fetch) -> None:
    """Stream one safetensors file: one tensor or piece at a time is fetched, written and freed."""
    with draft.stream(file_name) as write:
        write(header_bytes((p.name, p.dtype, p.shape) for p in plans))
        for plan in plans:
            fetched, written = fetch(plan.name), 0
            if isinstance(fetched, Tensor):
                if tuple(fetched.shape) != plan.shape:
                    raise ValueError(f"{plan.name}: {tuple(fetched.shape)} is not {plan.shape}")
                fetched = iter((fetched,))
            for piece in fetched:
                write(tensor_bytes(piece.to(device="cpu", dtype=plan.dtype)))
                written += piece.numel() * plan.dtype.itemsize
            if written != plan.num_bytes:
                raise ValueError(f"{plan.name}: its pieces have {written} bytes")


def save_weights(
    draft: Draft,
    plans: Iterable[TensorPlan],
    fetch: Fetch,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Save a model's weights in Hugging Face's layout: one file, or shards with an index."""
    shards: list[list[TensorPlan]] = [[]]
    filled = 0
    for plan in plans:
        if filled and filled + plan.num_bytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(plan)
        filled += plan.num_bytes
    if len(shards) == 1:
        write_tensors(draft, SINGLE_FILE, shards[0], fetch)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(draft, file_name, shard, fetch)
        weight_map |= {plan.name: file_name for plan in shard}
    total = sum(plan.num_bytes for shard in shards for plan in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    draft.write(INDEX_FILE, json.dumps(index, indent=2).encode())
