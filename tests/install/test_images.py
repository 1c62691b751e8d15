"""docker/: the images' files keep hadolint's rules, and what they run does so on this machine.

No image is built here. Their steps run in a made-up clone, their scripts beside a made-up CANN.
"""

from __future__ import annotations

import fnmatch
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.helpers.bare_machine import Machine
from tests.helpers.driver_tools import write_cann, write_tool
from tests.helpers.native_sources import copy_native
from tests.helpers.source import ROOT
from tests.helpers.torch_index import serving

FOLDER = ROOT / "docker"
FILES = sorted(FOLDER.glob("Dockerfile.*"))
IN_IMAGE = Path("/opt/danlu")
# What a step changes beyond the clone is only written down.
OUTSIDE = ("chmod", "danlu", "groupadd", "install", "ln", "mkdir", "rm", "useradd")


def instructions(file: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions with their words; lines are joined, comments left out."""
    lines = [line for line in file.read_text("utf-8").splitlines() if not line.startswith("#")]
    whole = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in whole.splitlines() if line]


def words_of(file: Path, name: str) -> list[str]:
    return [words for instruction, words in instructions(file) if instruction == name]


def test_there_is_one_for_each_device() -> None:
    assert [file.suffix for file in FILES] == [".ascend", ".cpu", ".cuda"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_hadolint_finds_nothing(file: Path) -> None:
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed: its package has a wheel for x86-64 only")
    done = subprocess.run([program, "--no-color", file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_what_hadolint_does_not_ask(file: Path) -> None:
    names = [name for name, _words in instructions(file)]
    assert "ADD" not in names
    assert not [words for words in words_of(file, "RUN") if re.search(r"\b(sudo|apt-get)\b", words)]
    values = dict(words.split("=", 1) for words in words_of(file, "ARG") if "=" in words)
    for words in words_of(file, "FROM"):
        base = words.partition(" AS ")[0]
        for name, value in values.items():
            base = base.replace(f"${{{name}}}", value)
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d+\.\d+\.\d+[\w.-]*", base), base
    assert words_of(file, "EXPOSE") == ["6006 6008"]
    assert '"pipefail"' in words_of(file, "SHELL")[0]
    assert names.index("SHELL") < names.index("RUN")
    # In a shell form signals would end the shell and not the program.
    for name in ("ENTRYPOINT", "CMD"):
        assert words_of(file, name)[-1].startswith("[")
    # The device files of an Ascend belong to a group that only the host knows.
    is_root = not words_of(file, "USER")
    assert is_root == (file.suffix == ".ascend")
    assert not is_root or "# Root, unlike the other images: " in file.read_text("utf-8")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_that_is_named_is_in_the_image(file: Path) -> None:
    named = set(re.findall(r"/opt/danlu/([\w./-]+\w)", "".join(map(" ".join, instructions(file)))))
    named |= set(re.findall(r"bash (scripts/[\w./-]+)", "".join(words_of(file, "RUN"))))
    present = {name for name in named if not name.startswith(".venv")}
    assert {"docker/entrypoint.sh", "docker/start.sh", "docker/health.py"} <= present
    for name in present:
        assert (ROOT / name).is_file(), name
        assert is_sent(name), name


def is_sent(name: str) -> bool:
    """Whether .dockerignore lets a file into the image: the last pattern that fits decides."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        pattern = line.removeprefix("!")
        if not line or line.startswith("#"):
            continue
        places = [name, *(str(folder) for folder in Path(name).parents)]
        whole = [pattern, pattern.removeprefix("**/")]
        if any(fnmatch.fnmatchcase(place, one) for place in places for one in whole) or (
            pattern.startswith("**/") and pattern[3:] in Path(name).parts
        ):
            sent = line.startswith("!")
    return sent


def test_what_danlu_is_built_of_is_sent_and_what_a_clone_gathers_is_not() -> None:
    needed = ["pyproject.toml", "constraints.txt", "hatch_build.py", "README.md", "LICENSE"]
    for folder in (
        "src/danlu",
        "native",
        "tools/install",
        "scripts",
        "examples",
        "frontend/src",
        "docker",
    ):
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file()]
        needed += [str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts]
    left = {"api_key.txt", "saves", ".danlu-program"}
    assert not [name for name in needed if not is_sent(name) and not left & set(Path(name).parts)]
    for name in (
        ".git/config", ".venv/bin/python", "frontend/node_modules/vite/package.json",
        "my-run/run.json", "scripts/oneclick/api_key.txt", "tests/conftest.py",
        "scripts/oneclick/saves/lora/run.json", "src/danlu/__pycache__/program.pyc",
    ):  # fmt: skip
        assert not is_sent(name), name


@pytest.mark.soak
def test_kernels_are_those_that_the_installation_would_build(tmp_path: Path) -> None:
    """A stage with a compiler builds them; else the image, which has none, would go without."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++")
    file = FOLDER / "Dockerfile.cpu"
    copies = words_of(file, "COPY")
    assert copies[0] == "native native"
    assert copies[-1].endswith("--from=kernels /kernels/libdanlu.so src/danlu/ops/native/")
    step = words_of(file, "RUN")[0]
    copy_native(tmp_path)
    command = step.replace("python ", f"{shlex.quote(sys.executable)} ")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    said = subprocess.run(
        [sys.executable, "native/build.py", "--output", "libdanlu.so"],
        cwd=tmp_path, env={"PATH": "/nowhere"}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "are built" in said, "it is up to date: no compiler is asked for"


def test_the_image_for_nvidia_cards_has_the_compiler_that_triton_needs() -> None:
    """Where there is none, no kernel of ours computes; `slim` has Python's headers, but no gcc."""
    assert words_of(FOLDER / "Dockerfile.cuda", "FROM") == ["python:3.11.15-bookworm"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_its_steps_run(file: Path, tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.add_python()
    machine.add_environment()
    for name in OUTSIDE:
        write_tool(machine.tools, name, f'echo "{name} $*" >> "$FAKE_LOG"\n')
    (step,) = [words for words in words_of(file, "RUN") if "install.sh" in words]
    command = re.sub(r"--mount=\S+ ", "", step)
    # An image is built without the device: there is CANN, and no npu-smi.
    cann = write_cann(tmp_path / "cann", "9.1.0")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=machine.clone, env=machine.variables | {"ASCEND_HOME_PATH": str(cann)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    device = {".ascend": "npu", ".cuda": "cuda", ".cpu": "cpu"}[file.suffix]
    said = {"npu": "torch_npu 2.10.0.post4 for CANN 9.1.0", "cuda": "CUDA 13.0", "cpu": "no NVIDIA"}
    assert said[device] in done.stdout
    assert "ATTENTION" not in done.stdout
    assert machine.pip_words[-3:] == ["-e", ".[jupyter]", ""]
    assert ("torch-npu==2.10.0.post4" in machine.pip_words) == (device == "npu")
    # The device that is elsewhere is not asked for an answer.
    assert "I am the starter." in done.stdout
    assert (machine.home / ".bashrc").read_text("utf-8").count("info --banner") == 1
    log = machine.log.read_text("utf-8").splitlines()
    home = {"npu": "/root"}.get(device, "/home/danlu")
    assert f"danlu scripts install {home}" in log
    assert ("mkdir -p /root/tf-logs" in log) == (device == "npu")


SET_ENV = 'export ASCEND_HOME_PATH=/cann; set -- "$@" overwritten; shift\n'
ATB_SET_ENV = '[ "$1" = --cxx_abi=1 ] && export ATB_HOME_PATH=/atb; unset nothing; false\n'


@pytest.mark.parametrize("toolkit", ["cann", "ascend-toolkit", None])
def test_the_entry_point_reads_canns_variables_and_leaves_the_command(
    toolkit: str | None, tmp_path: Path
) -> None:
    text = (FOLDER / "entrypoint.sh").read_text("utf-8")
    script = tmp_path / "entrypoint.sh"
    script.write_text(text.replace("/usr/local/Ascend", str(tmp_path)), "utf-8")
    if toolkit is not None:
        for folder, content in ((toolkit, SET_ENV), ("nnal/atb", ATB_SET_ENV)):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "set_env.sh").write_text(content, "utf-8")
    show = 'printf "%s\\n" "${ASCEND_HOME_PATH-}" "${ATB_HOME_PATH-}" "$@"'
    done = subprocess.run(
        ["bash", script, "bash", "-c", show, "name", "two words", "--cxx_abi=0"],
        env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = ["/cann", "/atb"] if toolkit else ["", ""]
    assert done.stdout.splitlines() == [*found, "two words", "--cxx_abi=0"]
    assert not done.stderr


def health() -> dict[str, object]:
    """Run docker/health.py as a module that is not started."""
    import runpy

    return runpy.run_path(str(FOLDER / "health.py"))


@contextmanager
def answering(status: int):
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status if handler.path == "/health" else 404)
        handler.end_headers()

    with serving(reply) as address:
        yield address.rpartition(":")[2]


START = ["/bin/bash", "/opt/danlu/docker/start.sh"]
WEB = ["/opt/danlu/.venv/bin/python", "./.danlu-program", "web", "--host", "0.0.0.0"]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(START, marks=pytest.mark.soak),
        WEB,
        pytest.param(["/sbin/docker-init", "--", *START], marks=pytest.mark.soak),
        ["bash"],
    ],
)
def test_a_container_is_well_while_its_server_is(
    command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    is_well = health()["is_well"]
    # Whoever builds behind a proxy has it set in the container too.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with answering(200) as port:
        assert is_well(command, port)  # type: ignore[operator]
    with answering(503) as port:
        assert not is_well(command, port)  # type: ignore[operator]
    # Nothing listens: bad only where something should.
    assert is_well(command, port) == (command == ["bash"])  # type: ignore[operator]


def test_the_port_is_the_one_that_the_command_names() -> None:
    told_port = health()["told_port"]
    assert told_port(["danlu", "serve", "--port", "8001"], "6006") == "8001"  # type: ignore[operator]
    assert told_port(["danlu", "serve", "--port=8001"], "6006") == "8001"  # type: ignore[operator]
    assert told_port(["danlu", "web", "--port"], "6006") == ""  # type: ignore[operator]
    assert told_port(["danlu", "web"], "6006") == "6006"  # type: ignore[operator]


@pytest.mark.parametrize("key", ["", "my-key"])
def test_it_starts_the_studio_and_jupyterlab_with_one_key(key: str, tmp_path: Path) -> None:
    """With an empty home: a volume in its place hides what the image has there."""
    home, place = tmp_path / "home", tmp_path / "danlu"
    home.mkdir()
    tools = place / ".venv" / "bin"
    copy = f'cp "{ROOT}/scripts/oneclick/.danlu.sh" "$3"; ln -s "{tools}/danlu" "$3/.danlu-program"'
    write_tool(
        tools, "danlu",
        f'case "$1" in scripts) {copy} ;;\n'
        '    *) echo "danlu $* at $DANLU_HOST:$DANLU_PORT" >> "$HOME/log" ;; esac\n',
    )  # fmt: skip
    write_tool(tools, "jupyter", 'echo "jupyter $* $JUPYTER_TOKEN" >> "$HOME/log"\n')
    script = tmp_path / "start.sh"
    text = (FOLDER / "start.sh").read_text("utf-8")
    script.write_text(text.replace(str(IN_IMAGE), shlex.quote(str(place))), "utf-8")
    variables = {"HOME": str(home), "PATH": f"{tools}:{os.environ['PATH']}", "DANLU_LANG": "en"}
    variables |= {"DANLU_API_KEY": key} if key else {}
    done = subprocess.run(
        ["bash", script], env=variables, capture_output=True, text=True, check=True, cwd="/"
    )
    used = key or (home / "api_key.txt").read_text("utf-8").strip()
    assert len(used) >= len("my-key")
    assert f"Key: {used}\n" in done.stdout
    log = (home / "log").read_text("utf-8").splitlines()
    (jupyter,) = [line for line in log if line.startswith("jupyter lab ")]
    assert jupyter.endswith(f"--ip 0.0.0.0 --port 6008 {used}")
    assert "danlu web at 0.0.0.0:6006" in log
