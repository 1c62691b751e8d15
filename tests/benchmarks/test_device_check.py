"""The device check as a lent machine runs it, on this CPU with a tiny shape."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.device_check.__main__ import main
from benchmarks.device_check.decoding import limit_tokens_per_s
from benchmarks.device_check.part import Report, run_part
from benchmarks.device_check.shapes import SHAPES, Streams

ROOT = Path(__file__).parents[2]


def checked(out: Path, parts: str, **environment: str) -> tuple[dict[str, Any], str, int]:
    """Run the script; what it wrote, what it printed, and how it ended."""
    words = ["sh", str(ROOT / "scripts" / "device_check.sh"), "--parts", parts]
    # What lies ready for a machine of another Python is none of this one's.
    here = {"CARRY": str(out / "nothing")}
    done = subprocess.run(
        [*words, "--shape", "tiny", "--device", "cpu", "--minutes", "5"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(out), **here, **environment},
        check=False,
    )
    file = out / "device_check.json"
    assert file.is_file(), done.stderr
    return json.loads(file.read_text(encoding="utf-8")), done.stdout, done.returncode


@pytest.mark.soak
def test_every_part_measures_and_the_table_comes_last(tmp_path: Path) -> None:
    names = "machine,training,training_peer,decoding,decoding_peer,experts,correctness,variants"
    names += ",attention"
    # fp8 by the twin: nothing of it is left out.
    found, printed, code = checked(tmp_path, names, DANLU_OPS="fp8_linear=reference")
    assert code == 0, printed
    parts = found["parts"]
    assert list(parts) == names.split(",")
    assert not any("FAILED" in words for _part, _what, words in found["table"])
    for kind in ("recipe", "full rows"):
        for form in (kind, f"{kind}, fp8"):
            assert parts["training"][form]["tokens_per_s"] > 0
            assert parts["training"][form]["losses"][-1] < parts["training"][form]["losses"][0]
        assert parts["training"][f"{kind}, profile"]["busy_ms"] > 0
    several = [f"4 x 8/16{more}" for more in ("", ", drawn", ", int8", ", int4")]
    for name in ("1 x 8/16", "one adapter", "1 x 8/16, int8", "1 x 8/16, int4", *several):
        assert parts["decoding"][name]["decode_tokens_per_s"] > 0
    assert parts["decoding"]["4 x 8/16, profile"]["busy_ms"] > 0
    assert len(parts["correctness"]["errors"]) > 20
    assert len(parts["correctness"]["product errors"]) > 80
    assert len(parts["correctness"]["fp8 products"]) == 8
    assert parts["correctness"]["fp8 loss"][0] != parts["correctness"]["fp8 loss"][1]
    assert len(parts["correctness"]["losses"]["cpu"]) == 10
    for kind in ("recipe", "full rows"):
        assert parts["training_peer"][kind]["tokens_per_s"] > 0
        assert parts["training_peer"][f"{kind}, ratio"] > 0
    assert parts["decoding_peer"]["4 x 8/16"]["danlu_ratio"] > 0
    last = printed.rstrip().splitlines()
    assert last[-1].endswith("device_check.json")
    assert last[-4] == "attention"
    for form in ("16 bits", "int8", "int4"):
        assert parts["experts"][f"4 x 8/16, {form}"]["decode_tokens_per_s"] > 0
    assert len(parts["variants"]["variants"]) > 10


@pytest.mark.soak
def test_a_server_is_asked(tmp_path: Path) -> None:
    found, printed, code = checked(tmp_path, "serving")
    assert code == 0, printed
    assert found["parts"]["serving"]["answer"] is True
    assert found["parts"]["serving"]["cpu answers"]


@pytest.mark.soak
def test_processes_that_start_are_timed(tmp_path: Path) -> None:
    found, printed, code = checked(tmp_path, "starting")
    assert code == 0, printed
    assert all(len(times) == 2 for name, times in found["parts"]["starting"].items()
               if name != "seconds")  # fmt: skip


def test_what_a_machine_lacks_skips_a_part_and_is_named(tmp_path: Path) -> None:
    # A site-packages folder that knows nothing but this finder: transformers is not there.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *p: None if name in ('llguidance',) else find(name, *p)\n",
        encoding="utf-8",
    )
    found, printed, code = checked(tmp_path / "out", "decoding", PYTHONPATH=str(tmp_path))
    assert code == 1  # nothing is left that could have been checked
    assert printed.rstrip().endswith("nothing was checked")
    assert found["missing"].count("llguidance") == 1
    assert printed.splitlines()[0].startswith("not installed here: ")
    assert found["table"] == [["decoding", "part", "SKIPPED: needs llguidance"]]


def test_a_part_that_fails_or_takes_too_long_ends_alone(tmp_path: Path) -> None:
    def broken(_settings: object, report: Report) -> None:
        report.put("first", 1, "done")
        raise ValueError("no such kernel")

    def endless(_settings: object, report: Report) -> None:
        report.put("first", 2, "done")
        while True:
            try:
                while True:
                    pass
            except Exception:  # what calls kernels may try again after any failure
                continue

    report = Report(file=tmp_path / "found.json")
    for name, work, seconds in (("broken", broken, 5.0), ("endless", endless, 0.2)):
        run_part(name, work, None, report, seconds)
    parts = json.loads(report.file.read_text(encoding="utf-8"))["parts"]
    assert (parts["broken"]["first"], parts["endless"]["first"]) == (1, 2)
    assert "no such kernel" in parts["broken"]["part"]["failed"]
    assert "Traceback" in parts["broken"]["part"]["failed"]
    assert parts["endless"]["seconds"] < 2
    words = {(part, what): found for part, what, found in report.rows}
    assert words["broken", "part"] == "FAILED: ValueError: no such kernel"
    assert words["endless", "time"].startswith("ended after")


@pytest.mark.parametrize(
    ("work", "how"),
    [
        ("os.abort()", "ended with status -6"),
        # What waits for a card inside a library hears no signal of Python's.
        ("signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM]); time.sleep(60)", "hung"),
    ],
)
def test_a_part_that_crashes_or_hangs_costs_no_other(
    work: str,
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what it had found is kept."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys, time\n"
        "from types import ModuleType as M\n"
        "def run(settings, report):\n"
        "    report.put('first', 1, 'done')\n"
        f"    {work}\n"
        "def fine(settings, report):\n"
        "    report.put('second', report.found['parts']['training']['first'] + 1, 'done')\n"
        "for name, work in (('training', run), ('machine', fine)):\n"
        "    module = sys.modules['benchmarks.device_check.' + name] = M(name)\n"
        "    module.run = module.try_variants = work\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}:{ROOT / 'src'}")
    words = [str(tmp_path / "out"), "--parts", "training,variants", "--minutes", "0.6"]
    assert main(words) == 1
    found = json.loads((tmp_path / "out" / "device_check.json").read_text(encoding="utf-8"))
    assert found["parts"]["training"]["first"] == 1
    assert found["parts"]["variants"]["second"] == 2
    rows = {(part, what): words for part, what, words in found["table"]}
    assert rows["training", "time"].startswith(f"FAILED: {how} within")
    assert "again with --parts training" in capsys.readouterr().out


def test_a_kernel_that_breaks_the_card_is_done_without_by_all_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "from types import ModuleType as M\n"
        "def run(settings, report):\n"
        "    asked = os.environ.get('DANLU_OPS', '')\n"
        "    report.put('asked', asked)\n"
        "    if 'swiglu=torch' not in asked:\n"
        "        report.put('without', 'swiglu=torch')\n"
        "for name in ('training', 'machine'):\n"
        "    sys.modules['benchmarks.device_check.' + name] = M(name)\n"
        "    sys.modules['benchmarks.device_check.' + name].run = run\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}:{ROOT / 'src'}")
    monkeypatch.setenv("DANLU_OPS", "adamw=fused")
    assert main([str(tmp_path), "--parts", "machine,training", "--minutes", "1"]) == 0
    parts = json.loads((tmp_path / "device_check.json").read_text(encoding="utf-8"))["parts"]
    assert parts["machine"]["asked"] == parts["training"]["asked"] == "adamw=fused,swiglu=torch"


def test_a_broken_card_is_told_to_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from benchmarks.device_check import machine
    from danlu.ops.swiglu import SWIGLU

    def broken(device: torch.device) -> None:
        raise SWIGLU._broken("torch", device, "an illegal memory access")

    monkeypatch.setattr(machine, "ops_table", broken)
    report = Report(file=tmp_path / "found.json", part="machine")
    machine.run(Namespace(device="cpu"), report)
    assert report.found["parts"]["machine"]["without"] == "swiglu=reference"


def test_the_table_is_as_wide_as_a_terminal(tmp_path: Path) -> None:
    report = Report(file=tmp_path / "found.json", part="machine")
    report.put("operations", 1, ",".join(f"operation{n}=variant" for n in range(20)))
    report.put("versions", 1, "a library 1.2.3, " * 20)
    assert max(map(len, report.table().splitlines())) <= 100
    assert "operation19=variant" in report.table()
    assert Report.read(report.file).rows == report.rows


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["file", "--minutes", "1"], "cannot be the folder of the results: File exists"),
        (["out", "--minutes", "0"], "--minutes must be more than 0"),
        (["out", "--minutes", "nan"], "--minutes must be more than 0"),
        (["out", "--parts", "trainign"], "unknown parts: trainign"),
    ],
)
def test_words_that_mean_nothing_are_refused(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_the_limit_of_decoding_is_that_of_reading_weights_and_cache() -> None:
    import torch

    config = SHAPES["qwen3-8b"].config
    streams = Streams(count=1, prompt=128, answer=1024, timed=96)
    limit = limit_tokens_per_s(config, streams, bandwidth=3.35e12, dtype=torch.bfloat16)
    # 8.19 billion weights less the embedding's 0.62, and 640 tokens of 147 KB: 15.2 GB a token.
    assert limit == pytest.approx(3.35e12 / (2 * (8.1907e9 - 0.6223e9) + 640 * 147_456), rel=1e-3)
    many = Streams(count=64, prompt=128, answer=1024, timed=96)
    both = limit_tokens_per_s(config, many, bandwidth=3.35e12, dtype=torch.bfloat16)
    assert 30 * limit < both < 64 * limit
