"""Measures each side in turn and puts them side by side.

Each side is started twice: once to the first forward pass, so that its files are in the file cache,
then for good. Both starts have empty folders of their own for what the side keeps between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.train.flops import Shape
from benchmarks.train.inputs import Inputs, write_rows
from benchmarks.train.measured import Measured
from benchmarks.train.peers import make_peers
from benchmarks.train.process import Finished, run
from benchmarks.train.recipe import TRAIN_FLAGS, WARMUP_STEPS
from benchmarks.train.report import MEANINGS, figures, ratios, table

ROOT = Path(__file__).resolve().parents[2]
SIDES = ("danlu", "llamafactory", "loop", "loop_checkpointing")
PEERS = Path("~/.cache/danlu-bench/peers")


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    options = _options()
    chosen = options.sides.split(",")
    needs_peers = chosen != ["danlu"]
    peers = make_peers(options.peers.expanduser().absolute()) if needs_peers else None
    pythons = {side: sys.executable if side == "danlu" else str(peers) for side in chosen}
    with tempfile.TemporaryDirectory(prefix="bench-train-") as place:
        work = Path(place)
        inputs = _prepare(options, work)
        machine = _machine(work)
        seen = {side: _measure(side, python, inputs, work) for side, python in pythons.items()}
        # What slows the machine down for a moment must not pass for its peak.
        peak = max(machine["gemm_gflops"], _machine(work)["gemm_gflops"])
    machine["gemm_gflops"] = peak
    shape = Shape.read(options.config)
    sides = {side: figures(*results, shape, peak) for side, results in seen.items()}
    compared = ratios(sides)
    result = {
        "command": _command(options),
        "machine": machine,
        "flags": " ".join(TRAIN_FLAGS),
        "meanings": MEANINGS,
        "sides": sides,
        "ratios": compared,
    }
    if options.output:
        text = json.dumps(result, indent=1, ensure_ascii=False)
        options.output.write_text(text + "\n", encoding="utf-8")
    print(table(sides, compared))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.train", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--config", type=Path, required=True, help="folder with config.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--data", type=Path, required=True, help="a .json file of alpaca rows")
    parser.add_argument("--steps", type=int, default=3, help="steps that are measured, of 16 rows")
    parser.add_argument("--sides", default=",".join(SIDES), help="which, separated by commas")
    parser.add_argument("--peers", type=Path, default=PEERS, help="where the peers are installed")
    parser.add_argument("--output", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    for side in options.sides.split(","):
        if side not in SIDES:
            parser.error(f"there is no side {side}; the sides are {','.join(SIDES)}")
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    for file in (
        options.config / "config.json",
        options.tokenizer / "tokenizer.json",
        options.data,
    ):
        if not file.is_file():
            parser.error(f"{file} does not exist")
    return options


def _prepare(options: argparse.Namespace, work: Path) -> Inputs:
    inputs = Inputs(folder=work / "inputs")
    write_rows(inputs, options.data, num_steps=WARMUP_STEPS + options.steps)
    config, tokenizer = options.config.absolute(), options.tokenizer.absolute()
    words = [str(path) for path in (config, tokenizer, inputs.model)]
    _run_own("model", words, work)
    return inputs


def _machine(work: Path) -> dict[str, Any]:
    result = work / "machine.json"
    _run_own("machine", [str(result)], work)
    values: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return values


def _run_own(module: str, words: list[str], work: Path) -> None:
    command = [sys.executable, "-m", f"benchmarks.train.{module}", *words]
    run(command, folder=ROOT, environment=os.environ, log=work / f"{module}.log")


def _measure(side: str, python: str, inputs: Inputs, work: Path) -> tuple[Measured, Finished]:
    print(f"measuring {side}", flush=True)
    _start(side, python, inputs, work / f"{side}-warm", only_start=True)
    finished = _start(side, python, inputs, work / side)
    return Measured.load(work / side / "result.json"), finished


def _start(
    side: str, python: str, inputs: Inputs, folder: Path, *, only_start: bool = False
) -> Finished:
    """Run one side's process; everything it writes goes below `folder`."""
    folder.mkdir()
    environment = {
        **os.environ,
        "DANLU_HOME": str(folder / "home"),
        "HF_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    if side != "danlu":
        environment.pop("PYTHONPATH", None)  # it names danlu's libraries
    paths = [str(path) for path in (inputs.folder, folder / "output", folder / "result.json")]
    command = [python, "-m", "benchmarks.train.side", f"{side}_side", *paths]
    command += ["start"] if only_start else []
    return run(command, folder=ROOT, environment=environment, log=folder / "log")


def _command(options: argparse.Namespace) -> str:
    """Write the command with the names of its folders only."""
    words = [f"--{name} {getattr(options, name).name}" for name in ("config", "tokenizer", "data")]
    return " ".join(
        [
            "python -m benchmarks.train",
            *words,
            f"--steps {options.steps}",
            f"--sides {options.sides}",
        ]
    )


if __name__ == "__main__":
    main()
