"""A process whose memory is really limited, by the kernel, and torch's own allocator failing."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from danlu.cli.main import main
from danlu.runs.manifest import read_manifest
from danlu.runs.metrics import read_metrics
from tests.helpers.models.model_folder import write_model_folder
from tests.helpers.program import start, train_words

# danlu in a process that may take so many MiB more than it has when the first step begins, until
# the last one has been done. Not before: libraries that are loaded later need memory too, and many
# end the process where there is none. In fp32, because so does oneDNN in bf16.
LIMITED = """
import resource, sys
import torch
from danlu.cli.main import main
from danlu.device.memory import free_cache
from danlu.train.loop.trainer import Trainer

extra, *words = sys.argv[1:]
run = Trainer.run

def limited(self):
    free_cache(torch.device("cpu"))
    with open("/proc/self/status", encoding="ascii") as status:
        used = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + int(extra) * 2**20, resource.RLIM_INFINITY))
    try:
        yield from run(self)
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

Trainer.run = limited
sys.exit(main(words))
"""
# So many MiB, from the middle of what makes the run adapt: glibc keeps now more, now less of what
# it frees. With too few a run meets Python's own MemoryError between two steps, which ends it so
# that it can go on; with too many it needs no change. One of these has always been right.
EXTRAS = (40, 55, 30)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    shape = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4}
    write_model_folder(folder / "model", dtype=torch.float32, **shape)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for n in range(16):
            told = " ".join(f"The fox {k * n % 97} ran." for k in range(30))
            file.write(json.dumps({"instruction": f"Tell of fox {n}.", "output": told}) + "\n")
    return folder


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run) if "loss" in record]


@pytest.mark.soak
def test_with_little_memory_the_run_ends_with_the_same_losses(place: Path) -> None:
    changes = {"max_steps": 2, "per_device_train_batch_size": 8, "micro_batch_tokens": 100_000}
    words = {
        name: train_words(place / "model", place / "rows.jsonl", place / name, **changes)
        for name in ("much", "little")
    }
    assert main(words["much"]) == 0
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    for extra in EXTRAS:
        shutil.rmtree(place / "little", ignore_errors=True)
        with start([str(extra), *words["little"]], program=LIMITED, **streams) as process:
            output, _nothing = process.communicate()
        has_adapted = "out of memory at step 1: from now on micro-batches of" in output
        if process.returncode == 0 and has_adapted:
            break
        assert process.returncode in (0, 4), output
        assert process.returncode == 0 or "--resume_from_checkpoint true" in output
    else:
        pytest.fail(f"no limit of {EXTRAS} made the run adapt: {output}")
    assert losses(place / "little") == pytest.approx(losses(place / "much"), rel=1e-6)
    recorded = read_manifest(place / "little")
    assert recorded.state == "finished"
    assert recorded.arithmetic.changes[0].micro_batch_tokens < 2900
