"""One part of the check, in the process that `__main__` has started for it.

    python -m benchmarks.device_check.one_part NAME SECONDS OUT [the words of the check]

So a kernel that leaves its memory, a library that crashes or a card that hangs costs one part.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import sys
from typing import Any

from benchmarks.device_check.__main__ import FILE, PARTS, settings_of
from benchmarks.device_check.part import Report, run_part


def main(words: list[str]) -> int:
    """Run the part; what it finds is added to the file of the check."""
    name, seconds, *rest = words
    os.setpgrp()  # what it starts ends with it
    faulthandler.enable()
    # Says where it hangs, before it is ended from outside.
    faulthandler.dump_traceback_later(float(seconds) + 1)
    settings: argparse.Namespace = settings_of(rest)
    report = Report.read(settings.out / FILE)
    part = next(part for part in PARTS if part.name == name)

    def work(setting: Any, report: Report) -> None:
        for need in part.needs:
            try:
                importlib.import_module(need)
            except ImportError as problem:
                # It is there, and something that it needs is not.
                report.put("part", {"missing": [need]}, f"SKIPPED: {need} needs more: {problem}")
                return
        module, _dot, function = part.run.rpartition(".")
        found = importlib.import_module(f"benchmarks.device_check.{module}")
        getattr(found, function)(setting, report)

    run_part(name, work, settings, report, float(seconds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
