"""The presets of `danlu train` next to each other: held-out loss of the starter model, three seeds.

    python benchmarks/presets.py --dataset ROWS.json [--eval_rows 100] [--max_samples 400]
        [--output results.json]

The first rows are held out and are the same for every run; the seed changes order and start.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from danlu.runs.manifest import read_manifest
from danlu.settings.resolve import resolve
from danlu.train.job.finetune import Finetune
from danlu.train.job.setup import prepare_run
from danlu.train.settings import TrainSettings

SEEDS = (1, 2, 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dataset", type=Path, required=True, help="a .json file of rows")
    parser.add_argument("--eval_rows", type=int, default=100)
    parser.add_argument("--max_samples", type=int, default=400)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = json.loads(options.dataset.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        held_out, learned = work / "held_out.json", work / "learned.json"
        held_out.write_text(json.dumps(rows[: options.eval_rows]), encoding="utf-8")
        stop = options.eval_rows + options.max_samples
        learned.write_text(json.dumps(rows[options.eval_rows : stop]), encoding="utf-8")
        results = {
            preset: [run(preset, seed, learned, held_out, work) for seed in SEEDS]
            for preset in TrainSettings.PRESETS
        }
    report = {
        "command": " ".join(["python", *sys.argv]),
        "versions": {name: metadata.version(name) for name in ("danlu", "torch")},
        "rows": {"learned": options.max_samples, "held_out": options.eval_rows},
        "presets": {name: summary(runs) for name, runs in results.items()},
    }
    text = json.dumps(report, indent=1)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


def run(preset: str, seed: int, learned: Path, held_out: Path, work: Path) -> dict[str, float]:
    """Train once; return the held-out loss before and after, and the steps it took."""
    output = work / f"{preset}-{seed}"
    words = [
        *("--preset", preset, "--seed", str(seed), "--output_dir", str(output)),
        *("--dataset", str(learned), "--eval_dataset", str(held_out), "--val_size", "0"),
        *("--eval_on_start", "--plot_loss", "false", "--report", "false"),
    ]
    losses = []
    for event in Finetune(prepare_run(resolve(TrainSettings, words, {}).values)).run():
        if hasattr(event, "is_best"):
            losses.append(event.loss)
    results = read_manifest(output).results
    print(preset, seed, results, file=sys.stderr)
    return {"before": losses[0], "after": results["eval_loss"], "steps": results["step"]}


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Give the losses of all seeds with their mean and spread."""
    after = [run["after"] for run in runs]
    return {
        "before": round(runs[0]["before"], 4),
        "after": [round(loss, 4) for loss in after],
        "mean": round(statistics.mean(after), 4),
        "spread": round(statistics.stdev(after), 4),
        "steps": [int(run["steps"]) for run in runs],
    }


if __name__ == "__main__":
    sys.exit(main())
