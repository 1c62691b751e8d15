"""What a neighbour costs: training and decoding alone, then beside one busy core.

    python -m benchmarks.neighbours train|decode [--model FOLDER] [--output FIGURES.json]

Rented machines have neighbours. On C cores, beside one program that keeps a core busy, danlu's fair
share is C - 0.5 of them where it uses all C, so C / (C - 0.5) times as long is fair. Each figure is
taken in a process of its own, as a user starts it, alone and beside the neighbour in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STEPS = 20
ROWS_PER_STEP = 8
PROMPT_TOKENS, DECODE_TOKENS = 64, 100
STREAMS = 8
BUSY = "while True: pass"


def main() -> None:
    """Measure in turn, print the table and write the JSON."""
    options = _options()
    if options.once:
        print(json.dumps(_MEASURES[options.what](options.model)))
        return
    found: dict[str, list[float]] = {"alone": [], "beside": []}
    for _repeat in range(options.repeats):
        for place, seconds in found.items():
            with neighbour(place == "beside"):
                seconds.append(_in_a_process(options))
    alone, beside = (statistics.median(seconds) for seconds in found.values())
    cores = len(os.sched_getaffinity(0))
    result = {
        "command": "python -m benchmarks.neighbours " + " ".join(sys.argv[1:]),
        "cores": cores,
        "seconds": found,
        "ratios": {
            "beside / alone": round(beside / alone, 2),
            "beside / fair share": round(beside / alone * (cores - 0.5) / cores, 2),
        },
    }
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{options.what} beside one busy core: {alone:.2f} s alone, {beside:.2f} s beside")
    print(json.dumps(result["ratios"], indent=1))


@contextmanager
def neighbour(is_there: bool) -> Iterator[None]:
    """Keep one core busy meanwhile, if so."""
    if not is_there:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", BUSY]) as busy:
        try:
            yield
        finally:
            busy.kill()


def training(model: str) -> float:
    """Return the seconds of some short steps."""
    import danlu
    from danlu.train.events import StepDone
    from danlu.train.job.finetune import Finetune
    from danlu.train.job.setup import prepare_run
    from danlu.train.settings import TrainSettings

    rows = Path(danlu.__file__).parent / "starter" / "demo" / "rows.json"
    with tempfile.TemporaryDirectory(prefix="bench-neighbours-") as place:
        settings = TrainSettings(
            model_name_or_path=model,
            dataset=str(rows),
            output_dir=str(Path(place) / "run"),
            max_steps=STEPS,
            per_device_train_batch_size=ROWS_PER_STEP,
            gradient_accumulation_steps=1,
            val_size=0,
            save_strategy="no",
            plot_loss=False,
        )
        events = Finetune(prepare_run(settings)).run()
        return sum(event.seconds for event in events if isinstance(event, StepDone))


def decoding(model: str) -> float:
    """Return the seconds of one answer, and then of several at once."""
    from danlu.device.detect import select
    from danlu.engine.engine import Engine
    from danlu.engine.request import Request, SamplingSettings
    from danlu.hub.load import load_for_answers

    loaded = load_for_answers(model, device=select(), dtype=None, quantization=None)
    engine = Engine(loaded.model, loaded.tokenizer, cache_tokens=16_384)

    def answer(streams: int, tokens: int) -> float:
        for stream in range(streams):
            prompt = tuple(range(3 + stream, 3 + stream + PROMPT_TOKENS))
            sampling = SamplingSettings(temperature=0.0, max_tokens=tokens)
            engine.add(Request(prompt=prompt, sampling=sampling), lambda output: None)
        started = time.perf_counter()
        while engine.num_unfinished:
            engine.step()
        return time.perf_counter() - started

    answer(1, 2)
    return answer(1, DECODE_TOKENS) + answer(STREAMS, DECODE_TOKENS)


_MEASURES = {"train": training, "decode": decoding}


def _in_a_process(options: argparse.Namespace) -> float:
    words = [options.what, "--model", options.model, "--once"]
    command = [sys.executable, "-m", "benchmarks.neighbours", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds: float = json.loads(done.stdout.splitlines()[-1])
    return seconds


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=sorted(_MEASURES))
    parser.add_argument("--model", default="starter", help="a model folder")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is measured")
    parser.add_argument("--output", type=Path, help="where the figures go, as JSON")
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    found: Any = parser.parse_args()
    return found


if __name__ == "__main__":
    main()
