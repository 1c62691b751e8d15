"""What no file may do: unpickle, evaluate text, write or touch devices outside the rooms for it.

Found in the syntax tree with imported names resolved, so `model.eval()` is fine and
`from torch import load` is not.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.source import Module, all_modules, danlu_modules, snippet

BANNED_IMPORTS = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
# Their releases break users and their import costs seconds: they are for tests and benchmarks.
ORACLES = {"transformers", "peft", "accelerate", "safetensors", "rouge_score"}
BANNED_CALLS = {
    "eval", "exec", "builtins.eval", "builtins.exec", "torch.load", "torch.save",
    "torch.jit.load", "os.system", "os.popen", "subprocess.getoutput",
    "subprocess.getstatusoutput", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all", "jinja2.Template",
    "jinja2.Environment",
}  # fmt: skip
BANNED_ARGUMENTS = {("shell", True), ("allow_pickle", True), ("weights_only", False)}

WRITING_ROOMS = {"files"}
# Libraries that insist on writing by themselves get an entry here, with the reason.
WRITERS_ELSEWHERE: dict[str, str] = {}
WRITING_CALLS = {
    *(f"os.{name}" for name in (
        "mkdir", "makedirs", "remove", "unlink", "rename", "renames", "replace", "rmdir",
        "removedirs", "symlink", "link", "truncate", "mkfifo", "mknod",
    )),
    *(f"shutil.{name}" for name in (
        "copy", "copy2", "copyfile", "copytree", "move", "rmtree", "make_archive",
        "unpack_archive",
    )),
    *(f"tempfile.{name}" for name in (
        "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory",
        "SpooledTemporaryFile",
    )),
    *(f"numpy.{name}" for name in ("save", "savez", "savez_compressed", "savetxt", "memmap")),
}  # fmt: skip
WRITING_METHODS = {
    "write_text", "write_bytes", "touch", "mkdir", "unlink", "rmdir", "symlink_to", "hardlink_to",
    "tofile", "save_pretrained", "save_file",
}  # fmt: skip
OPENERS = {"open", "io.open", "builtins.open", "codecs.open", "os.fdopen", "gzip.open", "bz2.open"}

DEVICE_ROOMS = {"device", "ops"}
DEVICE_NAMES = ("torch.cuda", "torch.npu", "torch.mps", "torch.xpu", "torch_npu")
DEVICE_WORDS = {"cuda", "npu", "cpu", "mps", "xpu"}


def banned_uses(module: Module) -> Iterator[str]:
    """Say where a module loads code from data or hands text to a shell."""
    for name, line in module.imports.items():
        if name.split(".")[0] in BANNED_IMPORTS:
            yield f"{module.where}:{line}: imports {name}"
        if name in BANNED_CALLS:
            yield f"{module.where}:{line}: imports {name}"
    for call in module.calls():
        if module.dotted(call.func) in BANNED_CALLS:
            yield f"{module.at(call)}: calls {module.dotted(call.func)}"
        for argument in call.keywords:
            value = argument.value
            if isinstance(value, ast.Constant) and (argument.arg, value.value) in BANNED_ARGUMENTS:
                yield f"{module.at(call)}: {argument.arg}={value.value!r}"


def oracle_imports(module: Module) -> Iterator[str]:
    """Say where a module needs a library that danlu must do without."""
    for name, line in module.imports.items():
        if name.split(".")[0] in ORACLES:
            yield f"{module.where}:{line}: imports {name}"


def writes(module: Module) -> Iterator[str]:
    """Say where a module changes the disk by itself."""
    for call in module.calls():
        name = module.dotted(call.func)
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if name in WRITING_CALLS or method in WRITING_METHODS or _renames_a_path(call, method):
            yield f"{module.at(call)}: {ast.unparse(call.func)} changes the disk"
        elif name == "os.open":
            # The null device keeps nothing.
            if module.dotted(call.args[0]) != "os.devnull":
                yield f"{module.at(call)}: os.open may write"
        elif (name in OPENERS or method == "open") and not _opens_for_reading(call, name):
            yield f"{module.at(call)}: {ast.unparse(call)} writes"


def _renames_a_path(call: ast.Call, method: str) -> bool:
    # str.replace and dataclasses.replace take more than one argument; Path.replace takes one.
    return method in ("rename", "replace") and len(call.args) == 1 and not call.keywords


def _opens_for_reading(call: ast.Call, name: str | None) -> bool:
    position = 1 if name in OPENERS else 0
    modes = [argument.value for argument in call.keywords if argument.arg == "mode"]
    modes += call.args[position : position + 1]
    return all(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and not set(mode.value) & set("wax+")
        for mode in modes
    )


def device_code(module: Module) -> Iterator[str]:
    """Say where a module speaks to one kind of device, or asks which kind it has."""
    for name, line in module.imports.items():
        if _is_device_name(name):
            yield f"{module.where}:{line}: imports {name}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute):
            used = module.dotted(node)
            if used in DEVICE_NAMES:
                yield f"{module.at(node)}: uses {used}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("cuda", "npu") and not node.args:
                yield f"{module.at(node)}: moves a tensor with .{node.func.attr}()"
        elif isinstance(node, ast.Compare):
            words = {
                value.value
                for side in (node.left, *node.comparators)
                for value in ast.walk(side)
                if isinstance(value, ast.Constant)
            }
            if words & DEVICE_WORDS:
                yield f"{module.at(node)}: ask for a capability, not: {ast.unparse(node)}"


def _is_device_name(name: str) -> bool:
    return any(name == device or name.startswith(f"{device}.") for device in DEVICE_NAMES)


def test_no_pickle_no_evaluation_no_shell() -> None:
    faults = [fault for module in all_modules() for fault in banned_uses(module)]
    assert not faults, "\n".join(faults)


def test_oracles_stay_in_tests_and_benchmarks() -> None:
    faults = [fault for module in danlu_modules().values() for fault in oracle_imports(module)]
    assert not faults, "\n".join(faults)


def test_only_files_writes() -> None:
    faults = [
        fault
        for name, module in danlu_modules().items()
        if module.room not in WRITING_ROOMS and name not in WRITERS_ELSEWHERE
        for fault in writes(module)
    ]
    assert not faults, "\n".join(faults)


def test_only_device_and_ops_know_devices() -> None:
    faults = [
        fault
        for module in danlu_modules().values()
        if module.room not in DEVICE_ROOMS
        for fault in device_code(module)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (banned_uses, "import pickle"),
        (banned_uses, "from torch import load"),
        (banned_uses, "import torch as t\nt.load('x', weights_only=True)"),
        (banned_uses, "import numpy\nnumpy.load('x', allow_pickle=True)"),
        (banned_uses, "import subprocess\nsubprocess.run('ls', shell=True)"),
        (banned_uses, "eval('1')"),
        (banned_uses, "from jinja2 import Environment\nEnvironment()"),
        (oracle_imports, "def late():\n    from transformers import AutoModel"),
        (writes, "open('x', 'w')"),
        (writes, "path.open(mode='a')"),
        (writes, "open(path, mode)"),
        (writes, "open(path, 'r+b')"),
        (writes, "path.write_text('x')"),
        (writes, "path.replace(other)"),
        (writes, "import os as o\no.open(path, o.O_RDWR)"),
        (writes, "from shutil import rmtree\nrmtree(path)"),
        (device_code, "import torch\ntorch.cuda.empty_cache()"),
        (device_code, "from torch import cuda"),
        (device_code, "import torch_npu"),
        (device_code, "tensor.cuda()"),
        (device_code, "if device.type == 'npu': pass"),
        (device_code, "if device in ('cuda', 'npu'): pass"),
    ],
)
def test_a_fault_is_found(rule: Callable[[Module], Iterator[str]], text: str) -> None:
    assert list(rule(snippet(text)))


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (banned_uses, "model.eval()"),
        (banned_uses, "import re\nre.compile('x')"),
        (banned_uses, "import numpy\nnumpy.load('x')"),
        (writes, "open(path)"),
        (writes, "path.open('rb')"),
        (writes, "open(path, encoding='utf-8')"),
        (writes, "import os\nos.open(os.devnull, os.O_WRONLY)"),
        (writes, "text.replace('a', 'b')"),
        (writes, "from dataclasses import replace\nreplace(span, supervised=True)"),
        (device_code, "import torch\ntorch.device(name)"),
    ],
)
def test_ordinary_code_passes(rule: Callable[[Module], Iterator[str]], text: str) -> None:
    assert not list(rule(snippet(text)))
