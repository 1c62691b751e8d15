"""Several processes of one training, as a launcher starts them; none of them imports torch anew."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

# Forked from a process that has imported these, and has no threads.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["danlu.cli.main", "danlu.train.job.following", __name__])
PATIENCE_S = 120.0


def train_on_ranks(
    size: int,
    words: Sequence[str],
    log: Path,
    *,
    before: Callable[[int], None] | None = None,
    variables: Mapping[int, Mapping[str, str]] | None = None,
    watch: Callable[[Sequence[int]], None] = lambda pids: None,
) -> list[int]:
    """Run `danlu WORDS` in `size` processes of one group; return their exit codes, by rank.

    What rank N prints stands in LOG.N. before(rank): called in each process first. variables: of
    the environment, by rank. watch(pids): called beside them, in a thread.
    """
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    places = [
        {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            **(variables or {}).get(rank, {}),
        }
        for rank in range(size)
    ]
    processes = [
        _CONTEXT.Process(target=_run, args=(list(words), place, f"{log}.{rank}", before, rank))
        for rank, place in enumerate(places)
    ]
    for process in processes:
        process.start()
    watching = threading.Thread(target=watch, args=([p.pid or 0 for p in processes],))
    watching.start()
    end = time.monotonic() + PATIENCE_S
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))
    watching.join()
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, f"still running after {PATIENCE_S:.0f} s: {codes}"
    return [code for code in codes if code is not None]


def said_by(log: Path, rank: int) -> str:
    """Return what a rank printed."""
    return Path(f"{log}.{rank}").read_text(encoding="utf-8")


def _run(
    words: list[str],
    place: Mapping[str, str],
    log: str,
    before: Callable[[int], None] | None,
    rank: int,
) -> None:
    os.environ.update(place)
    with open(log, "w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        if before is not None:
            before(rank)
        from danlu.cli.main import main

        code = main(words)
    sys.exit(code)
