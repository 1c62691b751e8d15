"""Measures each side in turn and puts them side by side."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.serve.llamacpp import ENVIRONMENT, VERSION, make_environment, write_models
from benchmarks.serve.task import DECODE_TOKENS, PREFILL_TOKENS, THREADS

HERE = Path(__file__).parent
SIDES = ("danlu", "danlu int8", "danlu int4", "transformers", "bf16", "q8_0", "q4_0")
# Weights of as many bits.
_SAME_BITS = {"danlu": "bf16", "danlu int8": "q8_0", "danlu int4": "q4_0"}


def main() -> None:
    """Run the benchmark, print its table and write its JSON."""
    options = _options()
    chosen = options.sides.split(",")
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as place:
        work = Path(place)
        model = work / "model"
        words = [options.config, options.tokenizer, model]
        subprocess.run([sys.executable, "-m", "benchmarks.train.model", *words], check=True)
        machine = _machine(work)
        commands = _commands(chosen, model, work)
        sides = {name: _measure(name, command) for name, command in commands.items()}
    result = {
        "command": "python -m benchmarks.serve " + " ".join(sys.argv[1:]),
        "machine": machine,
        "versions": {
            "torch": metadata.version("torch"),
            "transformers": metadata.version("transformers"),
            "llama-cpp-python": VERSION,
        },
        "task": {
            "prefill": f"{PREFILL_TOKENS} tokens",
            "decode": f"{DECODE_TOKENS} tokens, one stream",
        },
        "sides": sides,
        "ratios": ratios(sides, machine),
    }
    if options.output:
        text = json.dumps(result, indent=1, ensure_ascii=False)
        options.output.write_text(text + "\n", encoding="utf-8")
    print(table(sides))
    print(json.dumps(result["ratios"], indent=1))


def ratios(sides: dict[str, dict[str, Any]], machine: dict[str, Any]) -> dict[str, float]:
    """Compare, as far as the sides were run."""
    found: dict[str, float] = {}
    ours = sides.get("danlu")
    for name, peer in _SAME_BITS.items():
        if name in sides and peer in sides:
            pair = (sides[side]["decode_tokens_per_s"] for side in (name, peer))
            found[f"decode {name} / llama.cpp {peer}"] = next(pair) / next(pair)
    peers = [sides[name] for name in ("bf16", "q8_0", "q4_0") if name in sides]
    if ours and peers:
        best = max(peer["prefill_tokens_per_s"] for peer in peers)
        found["prefill / llama.cpp's best"] = ours["prefill_tokens_per_s"] / best
    if ours and "transformers" in sides:
        theirs = sides["transformers"]["decode_tokens_per_s"]
        found["decode / transformers"] = ours["decode_tokens_per_s"] / theirs
    if ours:
        found |= {
            "bytes read / memory's rate": ours["share_of_memorys_rate"],
            "8 streams / one": ours["streams_tokens_per_s"] / ours["decode_tokens_per_s"],
            "8 requests on 4 adapters / on one": ours["four_adapters_tokens_per_s"]
            / ours["one_adapter_tokens_per_s"],
            "first token of turn two / of turn one": ours["turn_two_share"],
            "longest wait / prompt chunk": ours["longest_wait_s"] / ours["prompt_chunk_s"],
            "tried tokens, answers that repeat": ours["tried_tokens_where_answers_repeat"],
            "tried tokens, others": ours["tried_tokens_where_they_do_not"],
        }
    if ours and "danlu int8" in sides:
        found["8 streams int8 / bf16"] = (
            sides["danlu int8"]["streams_tokens_per_s"] / ours["streams_tokens_per_s"]
        )
    return {name: round(value, 2) for name, value in found.items()}


def table(sides: dict[str, dict[str, Any]]) -> str:
    """Lay out tokens a second."""
    lines = [f"{'':14} {'prefill':>8} {'decode':>8} {'8 streams':>10}   tokens/s"]
    for name, figures in sides.items():
        label = f"llama.cpp {name}" if name in ("bf16", "q8_0", "q4_0") else name
        streams = figures.get("streams_tokens_per_s")
        lines.append(
            f"{label:14} {figures['prefill_tokens_per_s']:8.1f} "
            f"{figures['decode_tokens_per_s']:8.1f} " + (f"{streams:10.1f}" if streams else "")
        )
    return "\n".join(lines)


def _commands(chosen: list[str], model: Path, work: Path) -> dict[str, list[str]]:
    """Return how each side is started; makes what its start needs."""
    commands: dict[str, list[str]] = {}
    formats = [name for name in chosen if name in ("bf16", "q8_0", "q4_0")]
    files: dict[str, Path] = {}
    if formats:
        environment = ENVIRONMENT.expanduser()
        python = str(make_environment(environment))
        files = write_models(model, environment, work)
    for name in chosen:
        if name in files:
            commands[name] = [python, str(HERE / "llamacpp_side.py"), str(files[name])]
        else:
            side, *words = name.split()
            module = f"benchmarks.serve.{side}_side"
            commands[name] = [sys.executable, "-m", module, str(model), *words]
    return commands


def _measure(name: str, command: list[str]) -> dict[str, Any]:
    print(f"measuring {name} ...", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise SystemExit(f"this failed: {' '.join(command)}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _machine(work: Path) -> dict[str, Any]:
    result = work / "machine.json"
    subprocess.run([sys.executable, "-m", "benchmarks.train.machine", str(result)], check=True)
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="folder with config.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--sides", default=",".join(SIDES), help="a part of: %(default)s")
    return parser.parse_args()


if __name__ == "__main__":
    main()
