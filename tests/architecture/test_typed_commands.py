"""Whatever danlu prints to be typed runs as it is printed, whether `danlu` is on PATH or not."""

from __future__ import annotations

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.errors import UsageError
from danlu.program import _NAMED, as_typed, own_command
from tests.helpers.source import ROOT, Module, danlu_modules, snippet

# Calls that pass a command on to `as_typed`, or that say in prose what a command does.
HANDED_ON = {"as_typed", "foreign", "option"}
ERRORS = ("Error", "Fault")
# Texts that become the fix of an error, or name a command without asking anybody to type it.
IN_PROSE = {
    "danlu.model.config": "the fix of an error",
    "danlu.hub.names": "the fix of an error",
    "danlu.hub.adapters": "the fix of an error",
    "danlu.dialog.assistant": "says what has set the default model",
    "danlu.train.settings": "the why of an error",
    "danlu.hub.chat_template": "put through as_typed a line later",
    "danlu.device.ascend.causes": "the fix of an error",
    "danlu.doctor.examination": "printed with say",
    "danlu.doctor.selftest": "printed with say",
    "danlu.workflows.answer_file": "the why of an error",
}
# What commands print without `say`, which puts every text through `as_typed`: what a program reads.
PRINTED_AS_IT_IS = {"json_line", "help_text", "_json_or_lines", "printable", "terminal_lines"}


def loose_commands(module: Module) -> Iterator[str]:
    """Say where a text names a command and goes past `as_typed`."""
    parents = {
        child: node for node in ast.walk(module.tree) for child in ast.iter_child_nodes(node)
    }
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        place = parents.get(node)
        is_docstring = isinstance(place, ast.Expr | ast.Dict)
        if not _NAMED.search(node.value) or is_docstring:
            continue
        calls = set()
        while place is not None:
            if isinstance(place, ast.Call):
                calls.add(ast.unparse(place.func).rpartition(".")[2])
            place = parents.get(place)
        if not calls & HANDED_ON and not any(name.endswith(ERRORS) for name in calls):
            yield f"{module.at(node)}: {node.value!r}"


def test_every_printed_command_is_written_as_it_can_be_typed() -> None:
    modules = danlu_modules().values()
    below = [m for m in modules if not m.name.startswith("danlu.cli.") and m.name not in IN_PROSE]
    assert [place for module in below for place in loose_commands(module)] == []


def test_commands_print_with_say() -> None:
    commands = (m for m in danlu_modules().values() if m.name.startswith("danlu.cli."))
    assert [place for module in commands for place in loose_prints(module)] == []


def loose_prints(module: Module) -> Iterator[str]:
    """Say where a command prints sentences past `say`."""
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "print" or not node.args:
            continue
        (text,) = (a.value if isinstance(a, ast.Starred) else a for a in node.args)
        if not (isinstance(text, ast.Call) and ast.unparse(text.func) in PRINTED_AS_IT_IS):
            yield f"{module.at(node)}: {ast.unparse(node)}"


def test_a_loose_command_is_found() -> None:
    assert list(loose_commands(snippet("print('try danlu chat')", "danlu.cli.x")))
    assert not list(loose_commands(snippet("print(as_typed('danlu chat'))", "danlu.cli.x")))
    assert not list(loose_commands(snippet("print('danlu trains')", "danlu.cli.x")))


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of a clone, in a folder with a space, where one stands; not on PATH."""
    folder = tmp_path / "my clone" / ".venv" / "bin"
    folder.mkdir(parents=True)
    script = folder / "danlu"
    script.write_text("#!/bin/sh\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(sys, "argv", [str(folder / "danlu"), "train"])
    monkeypatch.setenv("PATH", str(tmp_path / "on path"))
    monkeypatch.chdir(folder.parents[1])
    return folder


def test_the_environments_own_program_is_named(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert as_typed("try danlu chat") == "try .venv/bin/danlu chat"
    assert as_typed("请用danlu data check查看") == "请用.venv/bin/danlu data check查看"
    monkeypatch.chdir("/")
    (words,) = [shlex.split(as_typed("danlu chat --adapter 'a b'"))]
    assert words == [str(environment / "danlu"), "chat", "--adapter", "a b"]
    for text in ("danlu trains", "/opt/danlu chat", "my-danlu chat", "danlu chat/x", "danlu.yaml"):
        assert as_typed(text) == text


def test_on_path_its_name_is_enough(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linked = tmp_path / "on path"
    linked.mkdir()
    (linked / "danlu").symlink_to(environment / "danlu")
    assert own_command() == "danlu"
    # Another danlu of that name is not this one.
    (linked / "danlu").unlink()
    (linked / "danlu").write_text("#!/bin/sh\n", encoding="utf-8")
    (linked / "danlu").chmod(0o755)
    assert own_command() == ".venv/bin/danlu"
    # Without any script, the module can be run.
    (environment / "danlu").unlink()
    assert own_command() == f"'{sys.executable}' -m danlu.cli.main"


def test_the_fix_of_an_error_passes_through(environment: Path) -> None:
    fault = UsageError("danlu chat", why="danlu chat", fix="danlu chat")
    assert str(fault).splitlines() == ["danlu chat", "danlu chat", ".venv/bin/danlu chat"]
    assert environment.is_dir()


def test_what_a_program_prints_runs_from_where_it_was_printed(tmp_path: Path) -> None:
    """A fix, followed: the command is taken from the screen and typed."""
    bare = {**os.environ, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "danlu.cli.main", "pull", "Qwen3-9B"]
    told = subprocess.run(words, cwd=tmp_path, env=bare, capture_output=True, text=True)
    command = told.stderr.splitlines()[-1].replace("pull", "info --help; #")
    done = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=bare, capture_output=True, text=True
    )
    assert told.returncode == 2
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


def test_setup_offers_to_put_it_on_path(tmp_path: Path) -> None:
    """Asked on a terminal; elsewhere the printed command does it. Nothing else is touched."""
    home = tmp_path / "the home"
    folder = home / ".local" / "bin"
    folder.mkdir(parents=True)
    bare = {**os.environ, "HOME": str(home), "PATH": f"{folder}:/usr/bin:/bin"}
    script = str(ROOT / "scripts" / "on-path.sh")

    def said() -> str:
        done = subprocess.run(
            [script], env=bare, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        )
        return done.stdout

    told = said()
    assert list(folder.iterdir()) == []
    command = told.splitlines()[-1].removeprefix("In every terminal: ")
    subprocess.run(["sh", "-c", command], check=True)
    assert os.readlink(folder / "danlu") == str(ROOT / ".venv" / "bin" / "danlu")
    if (ROOT / ".venv" / "bin" / "danlu").exists():
        assert said() == ""
