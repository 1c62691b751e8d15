"""Processes are started, one for each device, and their end is told; for real, on the CPU."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from danlu.device.launcher import Ended, Nodes, Place, processes_wanted
from danlu.errors import UsageError
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import free_port, start, train_words, write_rows
from tests.helpers.waiting import wait_until


def launched(**names: str) -> dict[str, str]:
    usual = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
    return {**usual, **names}


def test_a_process_is_where_its_launcher_has_put_it() -> None:
    assert Place.own({}) == Place()
    assert Place.own(launched()) == Place(
        rank=5, local_rank=1, size=8, local_size=4, is_launched=True
    )
    # A cloud names whole machines so, without any launcher.
    assert Place.own({"RANK": "1", "WORLD_SIZE": "2"}) == Place()


@pytest.mark.parametrize(
    ("name", "value"),
    [("RANK", "8"), ("RANK", "-1"), ("LOCAL_RANK", "4"), ("WORLD_SIZE", "x"), ("RANK", "")],
)
def test_an_impossible_place_is_refused(name: str, value: str) -> None:
    with pytest.raises(UsageError) as refused:
        Place.own(launched(**{name: value}))
    assert f"{name}={value}" in refused.value.why


@pytest.mark.parametrize(
    "environ",
    [
        {"NNODES": "2"},
        {"NNODES": "two", "MASTER_ADDR": "host"},
        {"NNODES": "2", "NODE_RANK": "2", "MASTER_ADDR": "host"},
        {"NNODES": "2", "MASTER_ADDR": "host", "MASTER_PORT": "port"},
        {"NNODES": "2", "MASTER_ADDR": "host", "MASTER_PORT": "65536"},
    ],
)
def test_machines_that_cannot_find_each_other_are_refused(environ: dict[str, str]) -> None:
    with pytest.raises(UsageError) as refused:
        Nodes.of(environ)
    assert "MASTER_ADDR" in refused.value.fix


def test_machines_are_read_as_llamafactory_reads_them() -> None:
    environ = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert Nodes.of(environ) == Nodes(count=2, rank=1, address="10.0.0.1", port=1234)
    assert Nodes.of({}) == Nodes.of({"NNODES": "1"}) == Nodes()
    assert processes_wanted(3, {}) == 3
    assert processes_wanted(3, {"NPROC_PER_NODE": "2"}) == 2
    with pytest.raises(UsageError):
        processes_wanted(3, {"NPROC_PER_NODE": "0"})


def test_a_signal_is_named() -> None:
    assert Ended(rank=1, code=1, signal=signal.SIGKILL).signal_name == "SIGKILL"


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def _listens(where: dict[str, str]) -> bool:
    address = (where["MASTER_ADDR"], int(where["MASTER_PORT"]))
    with socket.socket() as caller:
        return caller.connect_ex(address) == 0


def _is_alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    except FileNotFoundError:
        return False


@pytest.mark.soak
def test_a_rank_that_is_killed_ends_the_run_with_its_name_and_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    words = train_words(model, rows, run, max_steps=4000, save_steps=5, num_devices=2)
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        wait_until(lambda: (run / "checkpoint-5").exists() or launcher.poll() is not None)
        Path(f"/proc/{_children(launcher.pid)[1]}/comm").read_text(encoding="ascii")
        subprocess.run(["kill", "-9", str(_children(launcher.pid)[1])], check=True)
        said, _nothing = launcher.communicate(timeout=60)
    assert launcher.returncode == 3
    assert "Process 1 was ended by SIGKILL" in said
    assert "--resume_from_checkpoint true goes on from checkpoint-" in said
    assert "Traceback" not in said
    assert "torch/distributed" not in said
    assert read_manifest(run).state == "failed"
    done = len([record for record in read_metrics(run) if "loss" in record])
    again = train_words(model, rows, run, max_steps=4000, save_steps=5, num_devices=2)
    again += ["--resume_from_checkpoint", "true"]
    with start(again, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        wait_until(lambda: len(read_metrics(run)) > done + 3 or launcher.poll() is not None)
        launcher.send_signal(signal.SIGINT)
        said, _nothing = launcher.communicate(timeout=60)
    assert f"going on after step {done}" in said
    assert launcher.returncode == 130
    assert "the last completed step is saved" in said
    assert "--num_devices 2 --resume_from_checkpoint true" in said
    assert said.count("--resume_from_checkpoint") == 1
    # Each process keeps torch's cache of compiled code there, for the next one.
    assert [path.name for path in temporary.iterdir() if "inductor" not in path.name] == []


@pytest.mark.soak
def test_where_the_launcher_is_killed_its_processes_save_and_end(tmp_path: Path) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    words = train_words(model, rows, run, max_steps=100_000, save_steps=5, num_devices=2)
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        wait_until(lambda: (run / "checkpoint-5").exists() or launcher.poll() is not None)
        launcher.kill()
        said, _nothing = launcher.communicate(timeout=60)  # they hold its other end
    assert "the last completed step is saved" in said
    assert read_manifest(run).state == "interrupted"
    done = len([record for record in read_metrics(run) if "loss" in record])
    assert (run / f"checkpoint-{done}").exists()


@pytest.mark.soak
def test_ctrl_c_before_the_first_step_is_said_once(tmp_path: Path) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    words = train_words(model, rows, tmp_path / "run", max_steps=100_000, num_devices=2)
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        wait_until(lambda: len(_children(launcher.pid)) == 2 or launcher.poll() is not None)
        time.sleep(1)  # they load torch
        launcher.send_signal(signal.SIGINT)
        said, _nothing = launcher.communicate(timeout=60)
    assert said == "interrupted\n"
    assert launcher.returncode == 130


@pytest.mark.soak
def test_one_that_waits_for_another_ends_at_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places = launched(RANK="0", LOCAL_RANK="0", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    for name, value in {**where, **places}.items():
        monkeypatch.setenv(name, value)
    words = train_words(model, rows, tmp_path / "run", max_steps=2)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as lead:
            wait_until(lambda lead=lead: _listens(where) or lead.poll() is not None)
            time.sleep(0.5)  # torch is at it, outside Python
            lead.send_signal(number)
            said, _nothing = lead.communicate(timeout=60)
        assert (said, lead.returncode) == ("interrupted\n", 130)


@pytest.mark.soak
def test_a_second_signal_ends_what_waits_for_a_process_that_hangs(tmp_path: Path) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    words = train_words(model, rows, run, max_steps=100_000, save_steps=5, num_devices=2)
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        wait_until(lambda: (run / "checkpoint-5").exists() or launcher.poll() is not None)
        lead, other = _children(launcher.pid)
        os.kill(other, signal.SIGSTOP)
        time.sleep(0.5)  # the lead has come to where it waits
        os.kill(lead, signal.SIGINT)
        time.sleep(0.5)
        assert lead in _children(launcher.pid)
        os.kill(lead, signal.SIGINT)
        wait_until(lambda: not _is_alive(lead))
        os.kill(other, signal.SIGKILL)
        launcher.communicate(timeout=60)
    assert launcher.returncode in (3, 130)  # whichever end is seen first


@pytest.mark.soak
def test_under_nohup_the_training_outlives_its_terminal(tmp_path: Path) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    words = train_words(model, rows, run, max_steps=100_000, save_steps=5, num_devices=2)
    usual = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what is started now ignores it, too
    try:
        launcher = start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGHUP, usual)
    with launcher:
        wait_until(lambda: (run / "checkpoint-5").exists() or launcher.poll() is not None)
        launcher.send_signal(signal.SIGHUP)
        done = len(read_metrics(run))
        wait_until(lambda: len(read_metrics(run)) > done + 20 or launcher.poll() is not None)
        assert launcher.poll() is None
        launcher.send_signal(signal.SIGTERM)
        said, _nothing = launcher.communicate(timeout=60)
    assert launcher.returncode == 130
    assert "the last completed step is saved" in said


@pytest.mark.soak
def test_a_port_that_is_in_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    words = train_words(model, rows, tmp_path / "run", max_steps=2, num_devices=2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        places = {"NNODES": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in places.items():
            monkeypatch.setenv(name, value)
        with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
            said, _nothing = launcher.communicate(timeout=60)
    assert launcher.returncode == 3
    assert said.splitlines()[:3] == [
        f"Machine 1 of 2; the first one is 127.0.0.1, port {port}.",
        "The 2 machines of this training do not find each other.",
        "The address is in use.",
    ]
    assert len(said.splitlines()) == 4


@pytest.mark.soak
def test_torchrun_starts_it_as_well(tmp_path: Path) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    words = train_words(model, rows, tmp_path / "run", max_steps=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node", "2", "-m", "danlu", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "2 devices share each step" in done.stdout
    assert read_manifest(tmp_path / "run").arithmetic.num_devices == 2


@pytest.fixture
def slow_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of code that each process runs first; each takes long to end, as on a busy machine."""
    code = tmp_path / "first" / "sitecustomize.py"
    code.parent.mkdir()
    code.write_text("import atexit, os, time\natexit.register(time.sleep, 3)\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(code.parent))
    return code


def test_words_that_are_wrong_are_told_once(tmp_path: Path, slow_to_end: Path) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    run = tmp_path / "run"
    run.mkdir()
    (run / "something").touch()
    words = train_words(model, rows, run, max_steps=2, num_devices=2)
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        said, _nothing = launcher.communicate(timeout=60)
    assert launcher.returncode == 2
    assert said.count("\n") == 3
    assert said.startswith(f"The output folder {run} is not empty.")


@pytest.mark.soak
def test_the_exit_code_is_that_of_the_process_that_failed(
    tmp_path: Path, slow_to_end: Path
) -> None:
    model, rows = write_model_folder(tmp_path / "model"), write_rows(tmp_path / "rows.jsonl")
    with slow_to_end.open("a", encoding="utf-8") as code:
        code.write("if os.environ.get('RANK') == '1': os.environ['DANLU_OPS'] = 'no'\n")
    words = train_words(model, rows, tmp_path / "run", max_steps=2, num_devices=2)
    with start(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as launcher:
        said, _nothing = launcher.communicate(timeout=60)
    assert "Process 1 of 2:\nDANLU_OPS" in said
    assert launcher.returncode == 2
