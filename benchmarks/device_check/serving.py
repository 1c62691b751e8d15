"""Whether `danlu serve` answers on the card as it does on the CPU: a process each, over HTTP."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from urllib.request import Request, urlopen

from benchmarks.device_check.part import Report

_QUESTION = "Name three colours."
_TOKENS = 24


def run(settings: argparse.Namespace, report: Report) -> None:
    """Ask the starter greedily, on the device and on the CPU."""
    answers = {}
    for kind in dict.fromkeys((settings.device, "cpu")):
        begun = time.perf_counter()
        answers[kind] = _answered(kind, seconds=report.left())
        report.put(f"{kind} answers", answers[kind], f"{time.perf_counter() - begun:.1f} s")
    ours, theirs = answers[settings.device], answers["cpu"]
    words = "as on the CPU" if ours == theirs else f"FAILED: {ours!r}, on the CPU {theirs!r}"
    report.put("answer", ours == theirs, words)


def _answered(kind: str, *, seconds: float) -> str:
    """Start a server, ask it once, stop it."""
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "danlu.cli.main", "serve", "starter"]
        # fp32 on both, so that a token does not hang on a rounding.
        command += ["--device", kind, "--port", "0", "--dtype", "float32"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "DANLU_HOME": home, "DANLU_LANG": "en"},
        )
        try:
            return _ask(_address(process), seconds)
        finally:
            process.terminate()
            process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    """Read on until the server says that it is ready."""
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r"(http://\S+): ready", line):
            return found[1]
    raise RuntimeError("".join(said)[-2000:])


def _ask(address: str, seconds: float) -> str:
    body = {
        "model": "starter",
        "messages": [{"role": "user", "content": _QUESTION}],
        "temperature": 0,
        "max_tokens": _TOKENS,
    }
    request = Request(
        f"{address}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json"},
    )
    with urlopen(request, timeout=max(1.0, seconds)) as answer:
        found = json.loads(answer.read())
    text: str = found["choices"][0]["message"]["content"]
    return text
