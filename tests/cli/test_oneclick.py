"""The tutorial's scripts: installed into a folder, run in order from elsewhere, offline."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from danlu.cli.installing import scripts
from danlu.cli.main import main
from danlu.runs.manifest import read_manifest
from danlu.web.built_page import FOLDER
from tests.helpers.program import free_port
from tests.helpers.source import ROOT

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="the scripts need bash")

# What `ls` shows in the tutorial, and what one may read before the last word of a script.
SCRIPTS = (
    "切换模型",
    "1-8B推理-命令行.sh",
    "1-8B推理-API接口.sh",
    "1-8B推理-界面.sh",
    "2-8B模型一键微调.sh",
    "3-8B-推理-命令行-微调后.sh",
    "3-8B-推理-API接口-微调后.sh",
    "3-8B-推理-界面-微调后.sh",
    "4-8B-合并-微调后.sh",
    "5-8B推理-命令行.sh",
)
QUICK = {
    "DANLU_MODEL": "starter",
    "DANLU_MAX_STEPS": "3",
    "DANLU_REPORT": "false",
    "DANLU_MAX_NEW_TOKENS": "8",
    "DANLU_LANG": "en",
    "OMP_NUM_THREADS": "1",
    # Nobody answers there: what asked a network would fail.
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    "NO_PROXY": "127.0.0.1",
}  # fmt: skip


@pytest.mark.parametrize("page", ["oneclick.md", "oneclick.zh-CN.md"])
def test_the_page_installs_and_names_them(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (command,) = re.findall(r"```bash\n(.*)\n```", text)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    for name in (*SCRIPTS, "merge.yaml"):
        assert f"`{name}`" in text
        assert (tmp_path / "my-scripts" / name).is_file()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scripts in a folder with a space and Chinese characters; work goes on elsewhere."""
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.upper().startswith("AUTODL")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "我的 脚本"
    assert main(["scripts", "install", str(folder)]) == 0
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def started(script: Path, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    environment = {**os.environ, **variables}
    return subprocess.Popen(
        [str(script)], env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


def run(script: Path, typed: str = "", **variables: str) -> tuple[int, str, str]:
    """Run a script to its end; return its exit code, output and errors."""
    with started(script, {**QUICK, **variables}) as process:
        out, errors = process.communicate(typed, timeout=250)
    return process.returncode, out, errors


def ask(script: Path) -> str:
    """Start a server's script, ask with the key that it prints, stop it; return the model."""
    port = free_port()
    with started(script, {**QUICK, "DANLU_PORT": port}) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if ": ready" in line:
                break
        (key,) = re.findall(r"^Key: (\S{32})$", said, flags=re.MULTILINE)
        (address,) = re.findall(r"^Address: (\S+)$", said, flags=re.MULTILINE)
        assert address == f"http://127.0.0.1:{port}/v1"
        request = urllib.request.Request(f"{address}/models")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(request, timeout=60)
        request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=60) as reply:
            models = json.load(reply)["data"]
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    return str(models[-1]["id"])


def open_page(script: Path) -> list[str]:
    """Start a page's script, open it by the link that it prints, stop it; return who can answer."""
    port = free_port()
    with started(script, {**QUICK, "DANLU_PORT": port}) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Open in the browser: "):
                break
        address = f"http://127.0.0.1:{port}"
        assert f"Address: {address}\n" in said
        assert re.search(r"^Key: \S{32}$", said, flags=re.MULTILINE)
        (link,) = re.findall(rf"^Open in the browser: {address}/\?link=(\S+)$", said, re.MULTILINE)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/studio/voices", timeout=60)
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        body = json.dumps({"link": link}).encode()
        headers = {"content-type": "application/json"}
        browser.open(urllib.request.Request(f"{address}/studio/session", body, headers), timeout=60)
        with browser.open(f"{address}/studio/voices", timeout=60) as reply:
            voices = json.load(reply)
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
    return [voice["name"] for voice in voices]


@pytest.mark.soak
def test_all_ten_run_in_order(folder: Path) -> None:
    assert {path.name for path in folder.iterdir() if not path.name.startswith(".")} == {
        *SCRIPTS, "merge.yaml", "data",
    }  # fmt: skip
    for name in SCRIPTS:
        script = folder / name
        if "API" in name:
            assert ask(script) == ("lora" if "微调后" in name else "starter")
            assert (folder / "api_key.txt").stat().st_mode & 0o777 == 0o600
            continue
        if "界面" in name:
            if (FOLDER / "index.html").exists():
                assert ("lora" in open_page(script)) is ("微调后" in name)
            continue
        code, out, errors = run(script, "hello\n" if "命令行" in name else "")
        assert code == 0, errors
        if "命令行" in name:
            model = "saves/merged" if name.startswith("5") else "starter"
            assert out.startswith(f"Model {model} ")
            assert ("\nAdapter " in out) is ("微调后" in name)
    assert read_manifest(folder / "saves" / "lora").base.name == "starter"
    assert json.loads((folder / "saves" / "merged" / "merge_report.json").read_text("utf-8"))


def test_what_is_missing_is_said_with_the_script_that_makes_it(folder: Path) -> None:
    for name in ("3-8B-推理-命令行-微调后.sh", "4-8B-合并-微调后.sh"):
        code, _out, errors = run(folder / name)
        assert code == 2
        assert "./2-8B模型一键微调.sh" in errors
    code, _out, errors = run(folder / "5-8B推理-命令行.sh", DANLU_LANG="zh")
    assert code == 2
    assert "请先运行 ./4-8B-合并-微调后.sh" in errors


def test_without_a_model_nothing_is_downloaded_unasked(folder: Path) -> None:
    code, _out, errors = run(folder / "1-8B推理-命令行.sh", DANLU_MODEL="", HOME=str(folder))
    assert code == 2
    assert "./切换模型" in errors
    assert "DANLU_MODEL=starter" in errors


def test_what_was_merged_before_is_kept(folder: Path) -> None:
    stand_in(folder)
    (folder / "saves" / "lora").mkdir(parents=True)
    (folder / "saves" / "merged").mkdir()
    code, out, _errors = run(folder / "4-8B-合并-微调后.sh")
    (kept,) = (folder / "saves").glob("merged-*")
    assert code == 0
    assert kept.name in out
    assert out.splitlines()[-1].startswith("merge merge.yaml|")


def stand_in(folder: Path) -> None:
    """Put a program in danlu's place that says what it was asked for."""
    program = folder / ".danlu-program"
    program.unlink()
    program.write_text(
        '#!/bin/sh\n[ "$*" != use ] || exec echo "Default model: starter"\n'
        '[ "$2" = --help ] || echo "$*|$DANLU_MODEL|$DANLU_HOST:$DANLU_PORT"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)


def test_a_rented_machine_listens_where_its_proxy_looks(folder: Path) -> None:
    stand_in(folder)
    script = folder / "1-8B推理-API接口.sh"
    _code, out, _errors = run(script, AUTODL_REGION="x")
    assert out.splitlines()[-1] == "serve|starter|0.0.0.0:6006"
    assert "http://127.0.0.1:6006/v1" in out
    _code, out, _errors = run(folder / "1-8B推理-界面.sh", AUTODL_REGION="x")
    assert out.splitlines()[-1] == "web|starter|0.0.0.0:6006"
    _code, out, _errors = run(folder / "1-8B推理-界面.sh")
    assert out.splitlines()[-1] == "web|starter|127.0.0.1:6006"
    assert "http://127.0.0.1:6006\n" in out
    _code, out, _errors = run(script, DANLU_PORT="7000")
    assert out.splitlines()[-1] == "serve|starter|127.0.0.1:7000"
    # A key stays what it was: programs that have it keep working.
    keys = [re.findall(r"Key: \S+", run(script)[1]) for _ in range(2)]
    assert keys[0] == keys[1]


def answered(script: Path, answer: str, **variables: str) -> tuple[int, list[str]]:
    """Run a script on a terminal, where it can ask; return its exit code and its lines."""
    keyboard, inner = pty.openpty()
    environment = {**os.environ, **QUICK, "DANLU_MODEL": "", **variables}
    with subprocess.Popen(
        [str(script)], env=environment, stdin=inner, stdout=subprocess.PIPE, text=True
    ) as process:
        os.write(keyboard, f"{answer}\n".encode())
        out, _errors = process.communicate(timeout=60)
    os.close(inner)
    os.close(keyboard)
    return process.returncode, out.splitlines()


def test_on_a_terminal_a_model_is_offered(folder: Path) -> None:
    stand_in(folder)
    script = folder / "1-8B推理-命令行.sh"
    code, lines = answered(script, "2", HOME=str(folder))
    assert (code, lines[-1]) == (0, "chat|starter|:")
    code, lines = answered(script, "1", HOME=str(folder))
    assert code == 0
    wanted = ["pull Qwen3-8B||:", "use Qwen3-8B||:", "chat||:"]
    assert [line for line in lines if "|" in line] == wanted
    code, lines = answered(script, "", HOME=str(folder))
    assert code == 2
    assert not [line for line in lines if "|" in line]
    code, lines = answered(folder / "切换模型", "my model")
    assert lines[-1] == "use my model||:"


def test_a_model_that_lies_around_is_found(folder: Path, tmp_path: Path) -> None:
    stand_in(folder)
    model = tmp_path / "home" / "models" / "Qwen3-8B"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}", encoding="utf-8")
    script = folder / "1-8B推理-命令行.sh"
    _code, out, _errors = run(script, DANLU_MODEL="", HOME=str(tmp_path))
    assert out.splitlines()[-1].startswith(f"chat|{model}|")
    # A folder is named as seen from where one is.
    (Path.cwd() / "mine").mkdir()
    _code, out, _errors = run(script, DANLU_MODEL="mine")
    assert out.splitlines()[-1].startswith(f"chat|{Path.cwd() / 'mine'}|")


def test_a_changed_script_is_never_replaced_unasked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed, missing = folder / "2-8B模型一键微调.sh", folder / "merge.yaml"
    ours = changed.read_bytes()
    changed.write_text("# mine\n", encoding="utf-8")
    missing.unlink()
    assert main(["scripts", "install", str(folder)]) == 2
    assert changed.name in capsys.readouterr().err
    assert not missing.exists()
    monkeypatch.setattr(scripts.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _question: "n")
    assert main(["scripts", "install", str(folder)]) == 0
    assert str(changed) in capsys.readouterr().out
    assert changed.read_text("utf-8") == "# mine\n"
    assert missing.is_file()
    assert main(["scripts", "install", str(folder), "--yes"]) == 0
    assert changed.read_bytes() == ours
