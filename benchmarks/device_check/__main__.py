"""Runs the parts of the device check in order, each in a process of its own; prints the table last.

Nothing but the standard library is imported here.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.device_check.part import WITHOUT, Part, Report

FILE = "device_check.json"
# A part ends itself; one that hangs in a library is ended so many seconds later.
_GRACE = 4.0
# So many operations may break the card before the check goes on with what it has.
_MOST_BROKEN = 4
# What may be missing on a machine that was not set up for danlu.
LIBRARIES = (
    "torch", "triton", "numpy", "pydantic", "tokenizers", "jinja2", "yaml", "rich", "llguidance",
    "fastapi", "uvicorn", "matplotlib", "transformers", "peft", "liger_kernel",
    "flash_attn_interface", "flash_attn",
)  # fmt: skip
_TRAINS = ("torch", "numpy", "pydantic", "tokenizers")


def _part(name: str, seconds: float, *needs: str, run: str = "") -> Part:
    """Describe a part; run: its module and function, where these are not `{name}.run`."""
    return Part(name=name, run=run or f"{name}.run", needs=needs, seconds=seconds)


# In order of worth: speed beside others first. The seconds are shares of what --minutes gives.
PARTS = (
    _part("machine", 60, "torch"),
    _part("training", 60, *_TRAINS),
    _part("training_peer", 80, *_TRAINS, "transformers", "peft", run="peers.training_peer.run"),
    _part("decoding", 90, *_TRAINS, "llguidance"),
    _part(
        "decoding_peer", 60, *_TRAINS, "llguidance", "transformers", run="peers.decoding_peer.run"
    ),
    _part("serving", 35, *_TRAINS, "llguidance", "fastapi", "uvicorn"),
    _part("starting", 45, *_TRAINS, "llguidance"),
    _part("experts", 50, *_TRAINS, "llguidance"),
    _part("correctness", 60, "torch"),
    _part("variants", 25, "torch", run="machine.try_variants"),
    # Its kernels stand in the place of transformers' own for a whole process.
    _part(
        "training_liger",
        *(50, *_TRAINS, "transformers", "peft", "liger_kernel"),
        run="peers.training_peer.run_liger",
    ),
    _part("attention", 40, *_TRAINS, run="training.run_attention"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run the check; return 0 where no part failed and not all were skipped, else 1."""
    words = sys.argv[1:] if words is None else list(words)
    settings = settings_of(words)
    report = Report(file=settings.out / FILE)
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    report.found["missing"] = missing
    report.found["settings"] = {name: str(value) for name, value in vars(settings).items()}
    print(f"not installed here: {', '.join(missing) or 'nothing'}", flush=True)
    report.write()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report = _run_parts(settings, words, report, missing)
    finally:
        report = Report.read(report.file)
        print(f"\n{report.table()}\n\nall figures: {report.file}", flush=True)
    if unfinished := [part for part, what, _words in report.rows if what == "time"]:
        print(f"not finished; again with --parts {','.join(unfinished)}")
    if all(words.startswith("SKIPPED") for _part, _what, words in report.rows):
        print("nothing was checked")
        return 1
    return int(any(words.startswith("FAILED") for _part, _what, words in report.rows))


def _run_parts(
    settings: argparse.Namespace, words: Sequence[str], report: Report, missing: Sequence[str]
) -> Report:
    ends = time.monotonic() + 60 * settings.minutes
    parts = []
    for part in (part for part in PARTS if part.name in settings.parts.split(",")):
        if lacking := [name for name in part.needs if name in missing]:
            report.part = part.name
            report.put("part", {"missing": lacking}, f"SKIPPED: needs {', '.join(lacking)}")
        else:
            parts.append(part)
    for number, part in enumerate(parts):
        for _again in range(1 + _MOST_BROKEN):
            share = part.seconds / sum(each.seconds for each in parts[number:])
            report = run_process(part.name, words, report.file, share * (ends - time.monotonic()))
            asked = report.found["parts"][part.name].pop(WITHOUT, None)
            if asked is None:
                break
            others = filter(None, (os.environ.get("DANLU_OPS"), asked))
            os.environ["DANLU_OPS"] = ",".join(others)
            report.found["parts"][part.name].pop("seconds", None)  # it has not ended yet
            report.put("computed with", os.environ["DANLU_OPS"], os.environ["DANLU_OPS"])
    return report


def run_process(name: str, words: Sequence[str], file: Path, seconds: float) -> Report:
    """Run a part in a process, and end it where it does not; return what was found until then."""
    seconds = max(1.0, seconds - _GRACE)
    module = "benchmarks.device_check.one_part"
    process = subprocess.Popen([sys.executable, "-m", module, name, str(seconds), *words])
    try:
        how = f"ended with status {process.wait(seconds + _GRACE)}"
    except subprocess.TimeoutExpired:
        how = "hung"
    finally:
        _end(process)
    report = Report.read(file)
    report.part = name
    if "seconds" not in report.found.get("parts", {}).get(name, {}):
        report.put("time", seconds, f"FAILED: {how} within {seconds:.0f} s, not finished")
    return report


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # it has ended, or is no group yet
        process.kill()
    process.wait()


def settings_of(words: Sequence[str]) -> argparse.Namespace:
    """Read the check's words; the folder of the results is there then."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="benchmarks.device_check")
    given = os.environ.get("OUT")
    parser.add_argument("out", type=Path, nargs="?", default=Path(given or "device_check"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--parts", default=",".join(names), help=", ".join(names))
    parser.add_argument("--shape", choices=("qwen3-8b", "tiny"), default="qwen3-8b")
    parser.add_argument("--device", default="cuda")
    found = parser.parse_args(words)
    if unknown := set(found.parts.split(",")) - set(names):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if not 0 < found.minutes < math.inf:
        parser.error("--minutes must be more than 0")
    try:
        found.out.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        parser.error(f"{found.out} cannot be the folder of the results: {problem.strerror}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
