"""What a user has before the first command: a small data file, and the words of a short run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.files.leftovers import is_leftover
from danlu.runs.metrics import read_metrics
from tests.helpers.waiting import PATIENCE_S

# Seconds instead of minutes: a few rows a step, one thread, no bf16 emulation, no pictures.
SHORT = {
    "max_steps": 6,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-3,
    "lora_dropout": 0.1,
    "dtype": "float32",
    "device": "cpu",
    "report": "false",
    "plot_loss": "false",
}


def write_rows(path: Path, count: int = 40) -> Path:
    """Write alpaca rows that a tiny model can begin to learn."""
    rows = (
        {"instruction": f"What is the name of fox {n}?", "output": f"The name is {n * 7}."}
        for n in range(count)
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def train_words(model: Path, rows: Path, output: Path, **changes: Any) -> list[str]:
    """Write the words of `danlu train` for a short run."""
    settings = {"model": model, "dataset": rows, "output_dir": output, **SHORT, **changes}
    return [
        "train",
        *(word for key, value in settings.items() for word in (f"--{key}", f"{value}")),
    ]


def start(words: Sequence[str], *, program: str | None = None, **options: Any) -> Any:
    """Start a process with one thread: danlu itself, or the text of a program around it."""
    begin = ["-m", "danlu.cli.main"] if program is None else ["-c", program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DANLU_LANG": "en"}
    return subprocess.Popen([sys.executable, *begin, *words], env=environment, **options)


def free_port() -> str:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


@contextmanager
def serving(words: Sequence[str]) -> Iterator[None]:
    """Run `danlu serve`, from ready until it has ended as it should."""
    pipe = subprocess.PIPE
    with start(words, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            assert any(": ready" in line for line in process.stdout), process.stderr.read()
            yield
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0


def leftovers(folder: Path) -> list[str]:
    """List unfinished work anywhere below a folder."""
    return sorted(path.name for path in folder.rglob("*") if is_leftover(path.name))


def timeless(run: Path) -> list[dict[str, Any]]:
    """The metrics without how long things took, and how full the memory was meanwhile."""
    return [
        {k: value for k, value in record.items() if "seconds" not in k and k != "memory_bytes"}
        for record in read_metrics(run)
    ]
