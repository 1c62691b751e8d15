"""Runs the parts of the device check in order, prints the table last.

Nothing but the standard library is imported before it is known what is missing.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import math
import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.device_check.part import Part, Report, run_part

# What may be missing on a machine that was not set up for danlu.
LIBRARIES = (
    "torch", "triton", "numpy", "pydantic", "tokenizers", "jinja2", "yaml", "rich", "llguidance",
    "fastapi", "uvicorn", "transformers", "peft", "liger_kernel", "flash_attn_interface",
    "flash_attn",
)  # fmt: skip
_TRAINS = ("torch", "numpy", "pydantic", "tokenizers")


def _call(module: str, function: str, setting: Any, report: Report) -> None:
    getattr(importlib.import_module(f"benchmarks.device_check.{module}"), function)(setting, report)


def _part(name: str, seconds: float, *needs: str, run: str = "") -> Part:
    """Describe a part; run: its module and function, where these are not `{name}.run`."""
    module, _dot, function = (run or f"{name}.run").partition(".")
    return Part(name=name, run=partial(_call, module, function), needs=needs, seconds=seconds)


# In order of worth; the seconds are shares of what --minutes gives.
PARTS = (
    _part("machine", 30, "torch"),
    _part("correctness", 80, "torch"),
    _part("training", 80, *_TRAINS),
    _part("decoding", 80, *_TRAINS, "llguidance"),
    _part("training_peer", 90, *_TRAINS, "transformers", "peft"),
    _part("decoding_peer", 60, *_TRAINS, "llguidance", "transformers"),
    _part("starting", 40, *_TRAINS, "llguidance"),
    _part("serving", 30, *_TRAINS, "llguidance", "fastapi", "uvicorn"),
    # Last: a kernel of a package that reads past its memory ends all work on the card.
    _part("attention", 40, *_TRAINS, run="training.run_attention"),
)


def main(words: Sequence[str] | None = None) -> int:
    """Run the check; return 0 where no part failed and not all were skipped, else 1."""
    settings = _settings(words)
    report = Report(file=settings.out / "device_check.json")
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    report.found["missing"] = missing
    report.found["settings"] = {name: str(value) for name, value in vars(settings).items()}
    print(f"not installed here: {', '.join(missing) or 'nothing'}", flush=True)
    parts = [part for part in PARTS if part.name in settings.parts.split(",")]
    ends = time.monotonic() + 60 * settings.minutes
    for number, part in enumerate(parts):
        lacking = [name for name in part.needs if name in missing]
        if lacking:
            report.part = part.name
            report.put("part", {"missing": lacking}, f"SKIPPED: needs {', '.join(lacking)}")
            continue
        shares = part.seconds / sum(each.seconds for each in parts[number:])
        run_part(part, settings, report, seconds=max(1.0, shares * (ends - time.monotonic())))
        gc.collect()
    print(f"\n{report.table()}\n\nall figures: {report.file}", flush=True)
    if all(words.startswith("SKIPPED") for _part, _what, words in report.rows):
        print("nothing was checked")
        return 1
    return int(any(words.startswith("FAILED") for _part, _what, words in report.rows))


def _settings(words: Sequence[str] | None) -> argparse.Namespace:
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
