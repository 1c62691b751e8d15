"""`danlu serve` as a program: started, asked, stopped, with the built-in model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from danlu.cli.main import main
from danlu.cli.serve import with_adapter
from danlu.server.settings import ServeSettings
from tests.helpers.figures import figure
from tests.helpers.program import start
from tests.helpers.terminal import Terminal
from tests.helpers.waiting import PATIENCE_S, wait_until


@contextmanager
def served(*words: str) -> Iterator[tuple[Any, str]]:
    """Start the program on a free port; gives the process and its address once it is ready.

    The lines after that one are left for the test to read.
    """
    process = start(
        ["serve", "--port", "0", "--device", "cpu", *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if found := re.match(r"(http://\S+): ready", line):
                break
        else:
            raise AssertionError(process.stderr.read())
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_in_a_terminal_lines_end_between_words_and_the_command_stays_whole() -> None:
    words = ["serve", "--port", "0", "--device", "cpu"]
    with closing(Terminal(words, columns=60, lines=40, seen=300)) as terminal:
        text = terminal.wait_for("Ctrl-C stops the server.")
    lines = text[text.index(": ready") :].splitlines()
    (command,) = [line for line in lines if line.startswith("curl")]
    assert shlex.split(command)[-2] == "-d"
    assert [line for line in lines if len(line) > 60] == [command]


def fetch(url: str, body: object = None, **headers: str) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    given = {"content-type": "application/json", **headers}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, data, given), timeout=PATIENCE_S
        ) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.read()


def test_from_start_to_signal(tmp_path: Path) -> None:
    """Also S10: the key stands in no output, and not in the list of processes."""
    key = "a-secret-that-nobody-should-see"
    (tmp_path / "key").write_text(key)
    (tmp_path / "key").chmod(0o600)
    words = ("--api_key_file", str(tmp_path / "key"), "--served_model_name", "little")
    with served("starter", *words) as (process, url):
        assert fetch(f"{url}/health")[0] == 200
        assert fetch(f"{url}/v1/models")[0] == 401
        status, body = fetch(f"{url}/v1/models", authorization=f"Bearer {key}")
        assert status == 200
        assert [card["id"] for card in json.loads(body)["data"]] == ["little"]
        assert fetch(f"{url}/metrics", authorization=f"Bearer {key}")[0] == 200
        listed = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        assert key.encode() not in listed
        lines = [process.stdout.readline() for _ in range(4)]
        # The example reads the key where it stands, and can be typed as it is.
        assert f"Bearer $(head -n 1 {tmp_path / 'key'})" in lines[2]
        if shutil.which("curl"):
            done = subprocess.run(["sh", "-c", lines[2]], capture_output=True, check=True)
            assert json.loads(done.stdout)["model"] == "little"
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        assert key not in output + errors + "".join(lines)
        assert "GET /v1/models 401 " in errors
        port = int(url.rpartition(":")[2])
        with socket.create_server(("127.0.0.1", port)):
            pass  # the port is free


@pytest.mark.parametrize("drain_s", [pytest.param("0", marks=pytest.mark.soak), "120"])
def test_a_signal_under_a_hundred_streams(drain_s: str) -> None:
    """R34: every stream comes to a proper end, and the port is free."""
    with served("starter", "--drain_s", drain_s) as (process, url):

        def stream(number: int) -> bytes:
            messages = [{"role": "user", "content": f"Count from {number} on."}]
            body = {"model": "starter", "messages": messages, "stream": True, "max_tokens": 100}
            # urllib raises where a chunked answer is not complete.
            return bytes(fetch(f"{url}/v1/chat/completions", body)[1])

        with ThreadPoolExecutor(100) as pool:
            answers = [pool.submit(stream, number) for number in range(100)]
            started = b'started_total{model_name="starter"} 100\n'
            wait_until(lambda: started in fetch(f"{url}/metrics")[1])
            process.send_signal(signal.SIGTERM)
            ends = [answer.result() for answer in answers]
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    whole = sum(b"[DONE]" in end for end in ends)
    assert whole + sum(b'"error"' in end for end in ends) == 100
    assert (whole == 100) == (drain_s != "0")
    socket.create_server(("127.0.0.1", int(url.rpartition(":")[2]))).close()
    figure("streams that a signal brought to a proper end", 100)


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    process = start(
        ["serve", str(tmp_path / "missing"), "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    _output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "does not exist" in errors
    assert "Traceback" not in errors


def test_a_port_in_use_ends_with_3_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 3
    what, why, fix = capsys.readouterr().err.splitlines()
    assert str(port) in what
    assert "Another program" in why
    assert f"--port {port + 1}" in fix


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--port", "70000"], "0 to 65535"),
        (["--max_num_seqs", "0"], "1 or more"),
        (["--drain_s", "-1"], "0 or more"),
        (["--served_model_name", " "], "not empty"),
        (["--adapter", "fox it"], "NAME=PATH"),
        (["--adapter", "a=x", "--adapter", "a=y"], "given twice"),
        (["starter", "--served_model_name", "fox", "--adapter", "fox=x"], "both called fox"),
        (["--adapter_dir", "/no/such/folder"], "does not exist"),
        (["--allowed_origin", "*"], "no origin"),
        (["--tensor_parallel_size", "2"], "--engine vllm"),
        (["--quantization", "int3"], "quantization"),
    ],
)
def test_words_that_make_no_sense(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *words]) == 2
    assert says in capsys.readouterr().err


def test_an_adapter_in_the_place_of_a_model_is_served_over_its_base(tmp_path: Path) -> None:
    (tmp_path / "fox").mkdir()
    (tmp_path / "fox" / "adapter_config.json").write_text("{}")
    given = ServeSettings(model_name_or_path=str(tmp_path / "fox"), adapter=("a=x",))
    taken = with_adapter(given)
    assert taken.model_name_or_path is None
    assert taken.adapter == (str(tmp_path / "fox"), f"a={Path('x').absolute()}")
    model = ServeSettings(model_name_or_path="starter", adapter=("a=x",))
    named = with_adapter(model)
    assert named == model.model_copy(update={"adapter": (f"a={Path('x').absolute()}",)})
