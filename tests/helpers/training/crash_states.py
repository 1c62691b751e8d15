"""What a disk may hold after a power cut: a log of operations, replayed up to any point.

`RecordingDisk` logs what changes the disk. `crash_states` replays each prefix of the log on a model
of a file system and yields the trees that a power cut at that moment may leave:

- The content of a file is safe once it was synced. What came after may be all there, not there, a
  row of zeros, or cut in the middle.
- A name (created, renamed, removed) is safe once its folder was synced. Of the others, the first
  few may be there, or all but one. A rename is one change, as in every journal, until one of two
  folders is synced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from danlu.files.disk import Bytes
from tests.helpers.faulty_disk import HastyDisk

# bytes: a file. str: the target of a symbolic link. dict: a folder.
Tree = dict[str, "bytes | str | Tree"]
Loss = Literal["kept", "dropped", "zeroed", "cut"]
LOSSES: tuple[Loss, ...] = ("kept", "dropped", "zeroed", "cut")


class RecordingDisk(HastyDisk):
    """The disk; `log` gets every operation that changes it, and what a caller was promised."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def promise(self, value: object) -> None:
        """Note what must hold after a power cut from now on."""
        self.log.append(("promise", value))

    def create(self, path: Path) -> FileIO:
        self.log.append(("create", path))
        return super().create(path)

    def write(self, file: FileIO, data: Bytes) -> None:
        self.log.append(("write", Path(os.fsdecode(file.name)), bytes(memoryview(data).cast("B"))))
        super().write(file, data)

    def sync(self, file: FileIO) -> None:
        self.log.append(("sync", Path(os.fsdecode(file.name))))
        super().sync(file)

    def sync_folder(self, path: Path) -> None:
        self.log.append(("sync_folder", path))
        super().sync_folder(path)

    def append(self, path: Path, data: Bytes, *, private: bool = False) -> None:
        if not path.exists():
            self.log.append(("create", path))
        self.log.append(("write", path, bytes(data)))
        HastyDisk().append(path, data)

    def sync_file(self, path: Path) -> None:
        self.log.append(("sync", path))
        super().sync_file(path)

    def rename(self, source: Path, target: Path) -> None:
        self.log.append(("rename", source, target))
        super().rename(source, target)

    def make_folder(self, path: Path) -> None:
        for place in (*reversed(path.parents), path):
            if not place.exists():
                self.log.append(("make_folder", place))
        super().make_folder(path)

    def link(self, target: str, path: Path) -> None:
        self.log.append(("link", path, target))
        super().link(target, path)

    def remove(self, path: Path) -> None:
        if path.is_symlink() or path.exists():
            self.log.append(("remove", path))
        super().remove(path)

    def remove_tree(self, path: Path) -> None:
        for folder, _folders, files in os.walk(path, topdown=False):
            self.log += [("remove", Path(folder, name)) for name in sorted(files)]
            self.log.append(("remove", Path(folder)))
        super().remove_tree(path)


@dataclass(eq=False)
class _File:
    safe: bytes = b""
    content: bytes = b""

    def after(self, loss: Loss) -> bytes:
        """The content that is found where unsynced bytes suffered `loss`."""
        lost = len(self.content) - len(self.safe)
        return {
            "kept": self.content,
            "dropped": self.safe,
            "zeroed": self.safe + bytes(lost),
            "cut": self.content[: len(self.safe) + lost // 2],
        }[loss]


@dataclass(eq=False)
class _Folder:
    safe: dict[str, _Node] = field(default_factory=dict)
    names: dict[str, _Node] = field(default_factory=dict)


_Node = _File | _Folder | str
# One folder's part of a change: the name now means this node, or nothing.
_Half = tuple[_Folder, str, "_Node | None"]


class _Model:
    """A file system below `root`, as it stands in memory and on the medium."""

    def __init__(self, root: Path, tree: Tree) -> None:
        self._root = root
        self._top = _safe_folder(tree)
        self._unsafe: list[list[_Half]] = []

    def apply(self, name: str, path: Path, *values: Any) -> None:
        """Do one logged operation."""
        if name == "sync_folder":
            # The places above the root are no concern of the scenario.
            if path == self._root or self._root in path.parents:
                self._sync_folder(self._at(path))
        elif name == "sync":
            file = self._at(path)
            file.safe = file.content
        elif name == "write":
            self._at(path).content += values[0]
        elif name == "rename":
            node = self._at(path)
            self._change((path, None), (values[0], node))
        else:
            new = {"create": _File, "make_folder": _Folder, "remove": lambda: None}
            self._change((path, values[0] if name == "link" else new[name]()))

    def crashes(self) -> Iterator[Tree]:
        """Yield what a power cut at this moment may leave."""
        count = len(self._unsafe)
        choices = [self._unsafe[:end] for end in range(count + 1)]
        choices += [self._unsafe[:n] + self._unsafe[n + 1 :] for n in range(count - 1)]
        for changes in choices:
            names: dict[_Folder, dict[str, _Node]] = {}
            for folder, name, node in (half for change in changes for half in change):
                _set(names.setdefault(folder, dict(folder.safe)), name, node)
            for loss in LOSSES:
                yield _tree(self._top, names, loss)

    def _at(self, path: Path) -> Any:
        node: Any = self._top
        for part in path.relative_to(self._root).parts:
            node = node.names[part]
        return node

    def _change(self, *entries: tuple[Path, _Node | None]) -> None:
        halves: list[_Half] = [(self._at(path.parent), path.name, node) for path, node in entries]
        for folder, name, node in halves:
            _set(folder.names, name, node)
        self._unsafe.append(halves)

    def _sync_folder(self, folder: _Folder) -> None:
        folder.safe = dict(folder.names)
        left = [[half for half in change if half[0] is not folder] for change in self._unsafe]
        self._unsafe = [change for change in left if change]


def _set(names: dict[str, _Node], name: str, node: _Node | None) -> None:
    names.pop(name, None)
    if node is not None:
        names[name] = node


def _safe_folder(tree: Tree) -> _Folder:
    nodes: dict[str, _Node] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            nodes[name] = _safe_folder(value)
        else:
            nodes[name] = value if isinstance(value, str) else _File(safe=value, content=value)
    return _Folder(safe=nodes, names=dict(nodes))


def _tree(folder: _Folder, changed: dict[_Folder, dict[str, _Node]], loss: Loss) -> Tree:
    tree: Tree = {}
    for name, node in changed.get(folder, folder.safe).items():
        if isinstance(node, _Folder):
            tree[name] = _tree(node, changed, loss)
        else:
            tree[name] = node if isinstance(node, str) else node.after(loss)
    return tree


def crash_states(
    log: list[tuple[Any, ...]], root: Path, before: Tree
) -> Iterator[tuple[Tree, object]]:
    """Yield each different tree below `root` that a power cut may leave, and the last promise.

    `before` is what `root` held, safely, before the log began.
    """
    model, promised = _Model(root, before), None
    seen: set[tuple[str, object]] = set()
    for operation in [("promise", None), *log]:
        if operation[0] == "promise":
            promised = operation[1]
        else:
            model.apply(*operation)
        for tree in model.crashes():
            key = (repr(tree), promised)
            if key not in seen:
                seen.add(key)
                yield tree, promised


def read_tree(folder: Path) -> Tree:
    """Read a folder into a tree."""
    tree: Tree = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            tree[path.name] = os.readlink(path)
        else:
            tree[path.name] = read_tree(path) if path.is_dir() else path.read_bytes()
    return tree


def write_tree(folder: Path, tree: Tree) -> Path:
    """Write a tree into a new folder."""
    folder.mkdir(parents=True)
    for name, value in tree.items():
        if isinstance(value, dict):
            write_tree(folder / name, value)
        elif isinstance(value, str):
            (folder / name).symlink_to(value)
        else:
            (folder / name).write_bytes(value)
    return folder
